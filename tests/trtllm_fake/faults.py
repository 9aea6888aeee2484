"""What a fake library does wrong, or only differently, and how that gets into another process."""

import dataclasses
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The defaults are a library that works, with the order and the pauses of a real one."""

    version: str = "1.2.1"
    """Of the package. From 1.3.0rc21 on everything is missing that the table has `removed_in` for."""
    drop: tuple[str, ...] = ()
    """Fields of BuildConfig and PluginConfig that take a value and keep their default, without a word."""
    empty_polls: int = 1
    """How often await_responses returns nothing, at once, before it returns something."""
    out_of_order: bool = True
    """Every other answer is held back until the one after it, even where both took as long."""
    failing: tuple[int, ...] = ()
    """Requests that are answered with an error: 0 is the first that was made."""
    dies_after: int | None = None
    """The executor ends after so many answers."""
    dies_silently: bool = False
    """It then answers nothing for ever, instead of raising."""
    keep_end_id: bool = True
    """The PyTorch flow's token ids end with end_id (from memory, so that both must be right)."""

    def dumps(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Faults":
        content = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        return cls(**content)
