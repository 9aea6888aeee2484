"""What an output has of one row: what it says, the sample that it was made of, and what made it."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recap_fast.errors import ConfigError, ShardError
from recap_fast.joined import JoinedOutput
from recap_fast.records import CRASHED, OK, UNWRITABLE, Sample
from recap_fast.replay.place import Place
from recap_fast.write.caption_lists import labelled
from recap_fast.write.merge import read_made_with

NOT_AGAIN: Mapping[str, str] = {
    CRASHED: "decoding it ended the process twice, and would end this one",
    UNWRITABLE: "the row could not be written, and replay writes none",
}
"""Statuses of rows that are not made again, and why."""


@dataclass(frozen=True, slots=True)
class Said:
    """A caption of a row."""

    label: str
    """Tells it from the others, see `write/caption_lists.py`; '' where there is one, of the run's only prompt."""
    text: str
    finish_reason: str
    num_tokens: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a row says about its image."""

    status: str
    error: str | None
    caption: str | None
    """The first one."""
    finish_reason: str
    num_tokens: int | None
    captions: tuple[Said, ...] = ()
    """All of them, where the row has a list."""

    @property
    def said(self) -> dict[str, Said]:
        """The captions by their labels, that of a row without a list, too."""
        if not self.captions and self.caption is not None:
            return {"": Said("", self.caption, self.finish_reason, self.num_tokens)}
        return {each.label: each for each in self.captions}

    def is_like(self, other: "Answer") -> bool:
        """Whether both say the same; the words of an error may differ."""
        return replace(self, error=None) == replace(other, error=None)


_OF_ANSWER = ("status", "error", "re_caption", "finish_reason", "num_tokens")
_COLUMNS = ("captions", "key", "org_caption", "metadata", "duplicate_of", *_OF_ANSWER)


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of an output, and the sample that is now where it was made of one."""

    row: Mapping[str, Any]
    """The values by column."""
    sample: Sample

    @property
    def answer(self) -> Answer:
        """What the row says."""
        return answer_of(self.row)

    def notes(self, fields: tuple[str, ...]) -> list[str]:
        """Why the caption that is made now may be another one, if the prompt has these fields."""
        asked, twin = ", ".join(f"{{{name}}}" for name in fields), self.row["duplicate_of"]
        shared = [] if twin is None else [f"the row shares the caption of {twin}, whose image is the same"]
        told = ("org_caption", "metadata") if fields else ()
        others = [name for name in told if self.row[name] != getattr(self.sample, name)]
        return shared + [f"{name}: the input has changed, and the prompt has {asked}" for name in others]


def answer_of(row: Mapping[str, Any]) -> Answer:
    """What a row says, by the values of its columns."""
    captions = labelled(row["captions"]).items()
    said = (Said(label, each["text"], each["finish_reason"], each["num_tokens"]) for label, each in captions)
    first = (row[name] for name in _OF_ANSWER)
    return replace(Answer(*first), captions=tuple(said))


def read_stored(joined: JoinedOutput, place: Place) -> Stored:
    """The row at a place and its sample. Raises ConfigError where there is no such row or it cannot be made again, and
    ShardError where its image cannot be read or is another one now."""
    shard = next((each for each in joined.shards if each.name == place.shard), None)
    if shard is None:
        raise ConfigError(f"--shards does not include shard {place.shard}: add its input, or leave --shards out.")
    statuses = [
        batch["status"][int(number)].as_py()
        for batch in joined.rows(place.shard, ["index", "status"])
        for number in np.flatnonzero(batch["index"].to_numpy() == place.index)
    ]
    if not statuses:
        raise ConfigError(f"{joined.output.address} has no row {place}: shard {place.shard} has none of this index.")
    if (status := statuses[0]) in NOT_AGAIN:
        raise ConfigError(f"{place} has the status {status} and is not made again: {NOT_AGAIN[status]}.")
    with closing(joined.pairs(shard, _COLUMNS, {place.index})) as pairs:
        row, sample = next(pairs)
    if status == OK and sample.status != OK:
        raise ShardError(f"{place} has no image any more ({sample.status}: {sample.error}): put the input back.")
    return Stored(row, sample)


def made_with(joined: JoinedOutput, place: Place) -> tuple[Mapping[str, Any], ...]:
    """What the rows of a shard were made with, as its file says it; nothing while the shard is not finished."""
    try:
        with joined.output.store.local(joined.output.data(place.shard)) as path:
            return tuple(read_made_with(path))
    except FileNotFoundError:
        return ()
