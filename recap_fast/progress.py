"""How far some work is, as functions are told that show it to people."""

from collections.abc import Callable
from typing import TypeAlias

OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with how much is done, and how much there is in all."""


def unwatched(done: int, total: int) -> None:
    """For work that nobody watches."""
