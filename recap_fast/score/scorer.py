"""What gives captions a score: the interface of all kinds of scores. Images with both captions in, scores out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Pair:
    """An image with its captions. Its identity is (shard, index)."""

    shard: str
    index: int
    """Index of the row in its shard."""
    image: bytes
    """The encoded image."""
    re_caption: str | None
    org_caption: str | None


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of a pair."""

    shard: str
    index: int
    re: float | None
    """Score of the new caption; None where there is none."""
    org: float | None
    """Score of the original caption; None where there is none."""
    notes: tuple[str, ...] = ()
    """Notes to count, such as 're_cut'. `Scorer.describe` puts the counts into words."""


class Scorer(Protocol):
    """Scores captions."""

    kind: str
    """A key of `write.rows.SCORES`: it names the folder of the scores and their columns."""
    settings: Mapping[str, Any]
    """All that decides about scores, as JSON has it: scores of other settings are never mixed with these."""

    @property
    def error_rate(self) -> float:
        """The share of captions, of those that it was to score, that others failed to."""

    def score(self, pairs: Iterable[Pair], expected: int = 0) -> Iterator[Score]:
        """One score for each pair, in any order; it may read some pairs ahead. Called once for pairs of many shards,
        about `expected` in all.

        A pair that cannot be scored gets None and a note. Raises RecapError or OSError where none can be any more; what
        it was about is then done again by the next call of the command.
        """

    def describe(self, counts: Mapping[str, int]) -> Iterator[str]:
        """Sentences for people about the counts of notes."""

    def close(self) -> None:
        """Frees what it holds."""
