"""Makes one row of an output again, from the image and the settings of the run, and compares its captions.

An output joined with its inputs, the place of a row and an engine's settings go in; what the row has, what comes out of
the engine now, and where both part come out. Nothing is written.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from recap_fast.captioner.captioner import Captioner
from recap_fast.generate.engine import GivesLogits
from recap_fast.joined import JoinedOutput
from recap_fast.launch.config import RunConfig
from recap_fast.launch.what_runs import find_provenance
from recap_fast.records import Completion, Request
from recap_fast.replay.again import Again, make_again
from recap_fast.replay.divergence import Ended, Tie, measure_tie, num_alike, tokens_of
from recap_fast.replay.place import Place
from recap_fast.replay.settings import changes
from recap_fast.replay.stored import Answer, Said, made_with, read_stored


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two captions part."""

    num_alike: int
    """Tokens that both have before they part."""
    alike: str
    """Their text."""
    tie: Tie | None
    note: str | None
    """Why there is no `tie`."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One of several captions: as the row has it, and as it was made again."""

    label: str
    """See `write/caption_lists.py`."""
    row: Said | None
    """None where the row has none of this label."""
    now: Said | None
    divergence: Divergence | None
    """None if both are the same, or one is missing."""

    @property
    def is_same(self) -> bool:
        """Whether the row says what comes out now."""
        return self.row == self.now


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One row and what was made again of its image."""

    place: Place
    key: str
    row: Answer
    now: Answer
    divergence: Divergence | None
    """Of the first captions; None if both are the same, or one of them has no caption."""
    captions: tuple[Compared, ...]
    """All of them, where the row has several or its prompt was drawn."""
    notes: tuple[str, ...]
    """What has changed since the row was made, and may be the reason."""
    made_with: tuple[Mapping[str, Any], ...]
    """What the rows of its shard were made with, as the file says it; none while the shard is not finished."""
    provenance: Mapping[str, str | None]
    """The machine and the commit now; nothing where no engine was needed."""

    @property
    def is_same(self) -> bool:
        """Whether the row says what comes out now."""
        return self.row.is_like(self.now)

    def as_json(self) -> dict[str, Any]:
        """All of it, for JSON."""
        captions = [{"same": each.is_same, **dataclasses.asdict(each)} for each in self.captions]
        return {"same": self.is_same, **dataclasses.asdict(self), "captions": captions}


def replay(joined: JoinedOutput, place: Place, config: RunConfig) -> Replay:
    """Makes the row at a place again; `config` is that of `settings.settings_of`.

    Raises ConfigError where there is no such row or it cannot be made again, ShardError where its image cannot be read
    or is another one now, and EngineError.
    """
    stored = read_stored(joined, place)
    notes, row = changes(joined.run.fingerprint, config), stored.answer
    with closing(Captioner(config)) as captioner:
        notes += stored.notes(captioner.prepared.prompts.fields)
        now = make_again(stored.sample, captioner)
        captions = [*_compare_all(row, now, captioner)]
        return Replay(
            place=place,
            key=stored.row["key"],
            row=row,
            now=now.answer,
            divergence=captions[0].divergence if captions else None,
            captions=tuple(each for each in captions if each.label),
            notes=tuple(notes),
            made_with=made_with(joined, place),
            provenance=find_provenance(captioner) if now.requests else {},
        )


def _compare_all(row: Answer, now: Again, captioner: Captioner) -> Iterator[Compared]:
    """The captions of both by their labels, in the row's order; then those that come out now alone."""
    there, here = row.said, now.answer.said
    made = dict(zip(here, zip(now.completions, now.requests, strict=False), strict=False))  # none where it failed
    for label in [*there, *(label for label in here if label not in there)]:
        before, after = there.get(label), here.get(label)
        divergence = None
        if before is not None and after is not None and before != after:
            divergence = _compare(before, *made[label], captioner)
        yield Compared(label, before, after, divergence)


def _compare(row: Said, now: Completion, request: Request, captioner: Captioner) -> Divergence | None:
    """Where the captions part, and how near the tie was; None if the row does not say how many tokens it has."""
    if row.num_tokens is None:
        return None
    prepared, engine, reason = captioner.prepared, captioner.engine, row.finish_reason
    ids = tokens_of(row.text, reason, row.num_tokens, now.token_ids, prepared.tokenizer)
    count = num_alike(ids, now.token_ids)
    alike = captioner.detokenize([now.token_ids[:count]])[0].lstrip()
    if not isinstance(engine, GivesLogits):
        note = f"an engine of {prepared.spec.backend} gives no logits"
        return Divergence(count, alike, None, note)
    ends, sampling = (Ended(ids, reason), Ended(now.token_ids, now.finish_reason)), captioner.config.options.sampling
    tie = measure_tie(engine, request, *ends, prepared.spec, prepared.tokenizer, sampling)
    cut = None if tie else "one caption was cut here, or both have the same tokens and ended for different reasons"
    return Divergence(count, alike, tie, cut)
