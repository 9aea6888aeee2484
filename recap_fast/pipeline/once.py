"""Images of the same bytes are captioned once: the first of a kind goes on, and the others get what it gets.

It knows rows and no stage. Two images are of a kind where their bytes are the same, and what their prompts have in its
fields. With greedy decoding their captions are the same then, all of them: a prompt that is drawn is drawn by the
bytes. Captions alone are remembered: why there is none may be for a moment, such as too little memory, so a failure is
shared by those alone that waited for it.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from recap_fast.generate.prompt import SampleFields
from recap_fast.records import OK, Completion, ImageOutcome, Row, Sample

MAX_KNOWN = 16_384
"""Captions that are remembered, those that were met last: 1.1 kB each where they have 128 tokens, 18 MB in all."""
Claim = Literal["first", "waits", "known"]


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of the first of a kind."""

    place: str
    """SHARD:INDEX of the row."""
    outcome: ImageOutcome
    prompts: tuple[tuple[str, str], ...]
    warning: str | None
    completions: tuple[Completion, ...]

    @classmethod
    def of(cls, row: Row) -> Self:
        place = f"{row.sample.shard}:{row.sample.index}"
        return cls(place, row.outcome, row.prompts, row.warning, row.completions)

    def give(self, row: Row) -> None:
        row.outcome, row.prompts, row.warning = self.outcome, self.prompts, self.warning
        row.completions = self.completions
        row.duplicate_of = self.place if self.completions else None


@dataclass(slots=True)
class _UnderWay:
    """A kind whose first is being captioned."""

    first: Row
    waiting: list[Row] = field(default_factory=list)


class Once:
    """Which images are captioned, and which get the caption of another one. Any thread may claim and settle."""

    def __init__(self, fields: Sequence[str] | None, max_known: int = MAX_KNOWN):
        """`fields` are those of the prompt; None: every image is captioned. At most `max_known` captions are
        remembered."""
        self._fields, self._max_known = fields, max_known
        self._under_way: dict[bytes, _UnderWay] = {}
        self._known: OrderedDict[bytes, _Result] = OrderedDict()
        self._num_known = 0
        """Captions in `_known`."""
        self._lock = threading.Lock()

    def claim(self, row: Row) -> Claim:
        """Whether the row is the first of its kind, so that it is to be captioned and then settled.

        If not, either it has the result now, or it waits for the first and comes out of `settle` with that one: whoever
        claimed it lets go of it.
        """
        key = self._key(row.sample)
        if key is None:
            return "first"
        with self._lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                known.give(row)
                return "known"
            if (under_way := self._under_way.get(key)) is not None:
                under_way.waiting.append(row)
                return "waits"
            self._under_way[key] = _UnderWay(row)
            return "first"

    def settle(self, row: Row) -> list[Row]:
        """A finished row, and the rows that waited for it, which are finished by that."""
        key = self._key(row.sample)
        if key is None:
            return [row]
        with self._lock:
            under_way = self._under_way.get(key)
            if under_way is None or under_way.first is not row:  # it was never claimed
                return [row]
            del self._under_way[key]
            result = _Result.of(row)
            if result.completions:
                self._known[key] = result
                self._num_known += len(result.completions)
                while self._num_known > self._max_known:
                    _, oldest = self._known.popitem(last=False)
                    self._num_known -= len(oldest.completions)
        for each in under_way.waiting:
            result.give(each)
        return [row, *under_way.waiting]

    def _key(self, sample: Sample) -> bytes | None:
        """Tells kinds apart; None for what is captioned by itself, and for what has no image."""
        if self._fields is None or sample.status != OK:
            return None
        digest = sample.image_sha256 or sample.sha256
        assert digest is not None, "an image has its hash"
        image = bytes.fromhex(digest)
        if not self._fields:
            return image
        values = SampleFields(sample)
        texts = ascii([values.get(name) for name in self._fields])
        return hashlib.sha256(image + texts.encode()).digest()
