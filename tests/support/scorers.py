"""A scorer without a model, for the tests of what is around it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from recap_fast.score.scorer import Pair, Score


class LengthScorer:
    """The score of a caption is its length. `flush` pairs are taken before the last of them has its score."""

    kind = "clip"
    error_rate = 0.0

    def __init__(self, flush: int = 3, **settings: Any):
        self.settings: Mapping[str, Any] = {"model": "lengths", **settings}
        self.seen: list[tuple[str, int, bytes]] = []
        self.num_calls = 0
        self.expected = 0
        self._flush = flush

    def score(self, pairs: Iterable[Pair], expected: int = 0) -> Iterator[Score]:
        self.num_calls += 1
        self.expected = expected
        held: list[Pair] = []
        for pair in pairs:
            self.seen.append((pair.shard, pair.index, pair.image))
            held.append(pair)
            if len(held) == self._flush:
                yield from map(self._one, reversed(held))
                held = []
        yield from map(self._one, held)

    def _one(self, pair: Pair) -> Score:
        re, org = (None if text is None else float(len(text)) for text in (pair.re_caption, pair.org_caption))
        return Score(pair.shard, pair.index, re, org, ("even",) if pair.index % 2 == 0 else ())

    def describe(self, counts: Mapping[str, int]) -> Iterator[str]:
        if counts.get("even"):
            yield f"{counts['even']} have even indices"

    def close(self) -> None:
        pass
