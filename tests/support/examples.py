"""How many examples the property tests draw, and which: profiles of hypothesis for `make test` and `make fuzz`."""

from hypothesis import settings


def register_profiles() -> None:
    """`default` draws the same examples every time and keeps none; `fuzz` draws others with each --hypothesis-seed."""
    settings.register_profile("default", max_examples=50, derandomize=True, database=None, deadline=None)
    settings.register_profile("fuzz", max_examples=300, database=None, deadline=None, print_blob=True)
    settings.load_profile("default")


def share(part: float) -> settings:
    """Part of the profile's examples, at least one; for tests whose examples take long (or, above 1, little time)."""
    return settings(max_examples=max(1, round(part * settings.default.max_examples)))
