"""One export: the output, what is chosen of it, where it goes, and what came of it. Every kind is written with this.

A kind is a function of a `Job`. Most call `each_shard` with a function that writes one shard: what is done already is
passed over, and a shard that cannot be exported is told of, while the others go on.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from recap_fast.addresses import public_url
from recap_fast.errors import ConfigError, ExitCode, ShardError
from recap_fast.export.choice import COLUMNS, LIST, Choice, Chosen
from recap_fast.export.config import FAILED, ExportConfig, near
from recap_fast.export.target import Draft, Target
from recap_fast.export.workers import Outcome, Task, Write, write_shard, write_side_by_side
from recap_fast.joined import JoinedOutput
from recap_fast.progress import OnProgress, unwatched
from recap_fast.records import OK, Sample, Shard, ShardReport
from recap_fast.write.done_record import read_record
from recap_fast.write.opening import read_lists
from recap_fast.write.rows import SCORES

FEW_ROWS = 20_000
"""With fewer rows, one process is done before a second one has begun."""
SAMPLES, CAPTIONS, SKIPPED = "samples", "captions", "skipped: "
"""Names of counts: samples that were exported, those of them with a caption, and samples left out for each flag."""


@dataclass(slots=True)
class ExportResult:
    """What came of an export."""

    folder: Path | None = None
    """Where the files are."""
    shards: int = 0
    """Shards that were exported now."""
    already: int = 0
    """Shards that were already there."""
    counts: Counter[str] = field(default_factory=Counter)
    """Counts of all these shards: SAMPLES, CAPTIONS, SKIPPED with the flag behind it, and those of the kind."""
    unfinished: list[str] = field(default_factory=list)
    """Shards that the run has not finished; they are not exported."""
    truncated: list[str] = field(default_factory=list)
    """Shards whose input the run could not read to its end; they have the rows of what it could."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each shard that could not be exported."""
    verified: str | None = None
    """What was compared in the end, in a sentence."""
    advice: list[str] = field(default_factory=list)
    """Lines on what to do with the export."""

    @property
    def exit_code(self) -> ExitCode:
        """FAILURE where a shard is missing."""
        return ExitCode.FAILURE if self.unfinished or self.problems else ExitCode.COMPLETE


@dataclass
class Job:
    """An export while it goes on."""

    config: ExportConfig
    joined: JoinedOutput
    target: Target
    progress: OnProgress = unwatched
    """Told how many rows are done, and how many there are."""
    make_way: Callable[[], None] | None = None
    """Called before a library shows progress of its own; None: none is shown."""
    result: ExportResult = field(default_factory=ExportResult)
    choice: Choice = field(init=False)
    has_lists: bool = field(init=False)
    """Whether rows have several captions, or the caption of a drawn prompt."""
    _rows: int = 0
    _total: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for a caption that no row has, and for flags where rows have none."""
        self.choice = Choice.of(self.config)
        self.result.folder = self.target.folder
        flags = [flag for flag in self.config.skip if flag != FAILED]
        if flags and not self.joined.run.has_flags:
            raise ConfigError(
                f"--skip {','.join(flags)}: {self.joined.output.address} is of an earlier version of recap-fast, whose "
                "rows have no flags. Leave these out."
            )
        labels, asked = read_lists(self.joined.output, self.joined.run).labels, self.config.caption
        self.has_lists = bool(labels)
        if asked is not None and asked not in labels:
            raise ConfigError(
                f"--caption {asked}: give one of {', '.join(labels)}.{near(asked, labels)}"
                if labels
                else f"--caption {asked}: each row has one caption, of the same prompt. Leave the option out."
            )

    @property
    def json_columns(self) -> tuple[str, ...]:
        """What the json of a webdataset's sample gets besides both captions."""
        lists = (LIST,) if self.has_lists and self.config.place == "json" else ()
        return tuple(dict.fromkeys((*self.config.columns, *lists)))

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets, which shows nothing: it writes shards, and counts in their drafts."""
        kept = {name: value for name, value in vars(self).items() if name != "finished"}
        return {**kept, "progress": unwatched, "make_way": None}

    @cached_property
    def finished(self) -> list[tuple[Shard, ShardReport]]:
        """The shards that can be exported; all others are named in the result. Raises ConfigError if there are none."""
        found = []
        if not self.joined.shards:
            raise ConfigError(
                f"--shards: {self.joined.output.address} has no captions of these inputs. Give inputs of the run; if "
                "they have moved, add --relocate OLD=NEW."
            )
        for shard in self.joined.shards:
            report = read_record(self.joined.output, shard.name)
            if report is None or report.output is None or report.status not in ("complete", "truncated"):
                self.result.unfinished.append(shard.name)
                continue
            found.append((shard, report))
            if report.status == "truncated":
                self.result.truncated.append(shard.name)
        return found

    def each_shard(
        self,
        write: Write,
        *,
        columns: Sequence[str] = (),
        plan: Mapping[str, Any] | None = None,
    ) -> None:
        """Calls `write` for each finished shard that is not there yet. It writes the files of the draft, counts in it,
        and raises ShardError where the shard cannot be exported.

        Where there are many rows it is called in several processes: it counts in the draft, and in nothing else.

        `columns` are written besides those of `--columns`. `plan` is what else decides what is written of each shard.
        """
        self._total = sum(report.rows for _, report in self.finished)
        tasks = self._tasks((*self.config.columns, *columns), plan or {})
        num = min(self.config.workers, len(self.finished))
        if num > 1 and self._total >= FEW_ROWS:
            with closing(write_side_by_side(write, self.target, tasks, num)) as outcomes:
                for outcome in outcomes:
                    self._add(outcome)
        else:
            for task in tasks:
                self._add(write_shard(write, self.target, task))

    def together(self, name: str, write: Callable[[Draft], None], *, columns: Sequence[str] = ()) -> None:
        """Calls `write` once for all finished shards, if there are any; what it writes is recorded under a name."""
        num, self._total = len(self.finished), sum(report.rows for _, report in self.finished)
        versions = [self._version(report, (*self.config.columns, *columns), None) for _, report in self.finished]
        version = hashlib.sha256(json.dumps(versions).encode()).hexdigest()
        if (done := self.target.done(name, version)) is not None:
            self.result.already += num
            self.result.counts.update(done.counts)
        elif num:
            try:
                with self.target.draft(name, version) as draft:
                    write(draft)
            except ShardError as error:
                self.result.problems.append(str(error))
                return
            self.result.shards += num
            self.result.counts.update(draft.counts)

    def rows(
        self, shard: Shard, draft: Draft, columns: Sequence[str] = (), base: Sequence[str] = COLUMNS
    ) -> Iterator[Chosen]:
        """The rows of a shard in order, skipped ones too, with those of `--columns`, `columns` and `base`.

        They are counted as what the draft has.
        """
        for batch in self.joined.rows(shard.name, self._wanted(columns, base)):
            for row in batch.to_pylist():
                yield self._choose(row, draft)
            self._advance(batch.num_rows)

    def pairs(self, shard: Shard, draft: Draft, columns: Sequence[str] = ()) -> Iterator[tuple[Chosen, Sample]]:
        """The rows as `rows` gives them, with their samples.

        Raises ShardError for a sample that is gone, or is not the one that was captioned.
        """
        for row, sample in self.joined.pairs(shard, self._wanted(columns)):
            if row["status"] == OK != sample.status:
                raise ShardError(f"{public_url(shard.url)} has no image {sample.index} any more: {sample.error}")
            yield self._choose(row, draft), sample
            self._advance(1)

    def _wanted(self, columns: Sequence[str], base: Sequence[str] = COLUMNS) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*base, *self.choice.columns, *self.config.columns, *columns)))

    def _choose(self, row: Mapping[str, Any], draft: Draft) -> Chosen:
        chosen = self.choice.choose(row)
        if chosen.skipped is not None:
            draft.counts[SKIPPED + chosen.skipped] += 1
        else:
            draft.counts[SAMPLES] += 1
            draft.counts[CAPTIONS] += chosen.caption is not None
        return chosen

    def _advance(self, num_rows: int) -> None:
        self._rows += num_rows
        self.progress(self._rows, max(self._rows, self._total))

    def _tasks(self, columns: Sequence[str], plan: Mapping[str, Any]) -> Iterator[Task]:
        """The shards to write; those that are there are counted."""
        for shard, report in self.finished:
            version = self._version(report, columns, plan.get(shard.name))
            if (done := self.target.done(shard.name, version)) is None:
                yield Task(shard, version, report.rows)
            else:
                self.result.already += 1
                self.result.counts.update(done.counts)
                self._advance(report.rows)

    def _add(self, outcome: Outcome) -> None:
        if outcome.is_elsewhere:
            self._advance(outcome.task.rows)
        if outcome.problem is not None:
            self.result.problems.append(outcome.problem)
            return
        self.result.shards += 1
        self.result.counts.update(outcome.counts)

    def _version(self, report: ShardReport, columns: Sequence[str], plan: Any) -> str:
        """A digest of everything that decides what is written: captions, scores if they are exported, settings."""
        output = self.joined.output
        scores = [kind for kind, names in SCORES.items() if {*names}.intersection(columns)]
        found = (output.store.stat(output.scores(kind, report.shard)) for kind in scores)
        captions = "" if report.output is None else report.output.sha256
        parts = [captions, *(file.version if file else None for file in found), dict(self.config.settings), plan]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
