"""Proves from an output folder that nothing is missing and nothing is there twice; with the inputs, counts them again.

In go the folder and, if wanted, the shards; out come the faults, each a sentence that names the remedy where another
run alone is none. Memory does not grow with the output.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from recap_fast.atomic import sha256_of
from recap_fast.errors import ConfigError, ShardError
from recap_fast.records import OK, Identity, Shard, ShardReport
from recap_fast.shard_set import ShardSet
from recap_fast.write.done_record import read_record
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import read_run_file
from recap_fast.write.stretches import count_statuses

FaultKind = Literal[
    "no record",
    "not complete",
    "no output",
    "wrong record",
    "wrong hash",
    "unreadable",
    "wrong rows",
    "wrong counts",
    "stranger",
    "new input",
    "lost input",
    "changed input",
]
_HERE = OutputFolder(Path())
_REDO = f"delete {_HERE.data('{0}')} and {_HERE.record('{0}')}, then run again"
_REMEDIES: Mapping[FaultKind, str] = {
    **dict.fromkeys(("wrong record", "wrong hash", "unreadable", "wrong rows", "wrong counts"), _REDO),
    "stranger": "move it elsewhere",
    "new input": "run again with the same --shards as now",
    "lost input": "mend it, then verify again",
    "changed input": "run again with --redo-changed",
}
"""By shard name. Of the kinds that are not here the next run takes care by itself."""
BATCH_ROWS = 65_536
CountSamples = Callable[[Shard], tuple[int, Identity]]
"""How many samples an input has, and which version of it that is. Raises ShardError where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it must be."""

    kind: FaultKind
    shard: str
    finding: str

    @property
    def sentence(self) -> str:
        """The finding, and what to do where it is not enough to run again; without the shard's name."""
        remedy = _REMEDIES.get(self.kind)
        return f"{self.finding}; {remedy.format(self.shard)}" if remedy else self.finding


@dataclass(slots=True)
class Verdict:
    """What `verify` found. The output is proven where there are no faults."""

    num_shards: int
    num_recounted: int = 0
    """Shards whose inputs were counted again."""
    rows: int = 0
    captioned: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Rows without a caption, by status."""
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is no fault of the output: an input that is truncated, or that has changed since."""


def verify(
    output: OutputFolder, shard_set: ShardSet | None = None, count_samples: CountSamples | None = None
) -> Verdict:
    """Checks every shard of the run file; `shard_set`, with `count_samples`: also how many samples the inputs have.

    Raises ConfigError where the folder is not the output of a run.
    """
    run = read_run_file(output)
    if run is None:
        raise ConfigError(f"{output.root} has no {output.run_file.name}: it is not the --output of a run.")
    inputs = {shard.name: shard for shard in shard_set.below(run.root).shards} if shard_set else {}
    verdict = Verdict(num_shards=len(run.shards), num_recounted=len(inputs))
    for name in run.shards:
        record = read_record(output.record(name))
        if record is None:
            verdict.faults.append(Fault("no record", name, "has no done-record: it is not finished"))
            continue
        verdict.rows += record.rows
        verdict.captioned += record.captioned
        verdict.failed.update(record.failed)
        if record.status == "truncated":
            verdict.notes.append(f"{name}: the input is truncated ({record.error}); what is whole of it is captioned")
        verdict.faults += [*_check_record(name, record), *_check_output(output.data(name), name, record)]
        if name in inputs:
            assert count_samples is not None, "without it a shard_set is of no use"
            verdict.faults += _check_input(inputs[name], count_samples, record, verdict.notes)
    for name in inputs.keys() - run.shards.keys():
        verdict.faults.append(Fault("new input", name, f"{inputs[name].url} is not among the shards of the run"))
    verdict.faults += _strangers(output, run.shards.keys())
    return verdict


def _check_record(name: str, record: ShardReport) -> Iterator[Fault]:
    if record.shard != name:
        yield Fault("wrong record", name, f"has the done-record of {record.shard}")
    if record.status not in ("complete", "truncated"):
        yield Fault("not complete", name, f"is recorded as {record.status}: {record.error}")
    num_failed = sum(record.failed.values())
    if record.rows != record.captioned + num_failed:
        sentence = f"has {record.rows} rows by its record, but {record.captioned} captioned and {num_failed} failed"
        yield Fault("wrong counts", name, sentence)


def _check_output(path: Path, name: str, record: ShardReport) -> Iterator[Fault]:
    if record.output is None:
        if record.rows or path.exists() or record.status != "failed":
            yield Fault("no output", name, "has no output by its record")
        return
    try:
        size, digest = path.stat().st_size, sha256_of(path)
    except FileNotFoundError:
        yield Fault("no output", name, "has no output: the file is gone")
        return
    except OSError as error:
        yield Fault("unreadable", name, f"has no output that can be read: {error}")
        return
    if size != record.output.size_bytes:
        yield Fault("wrong hash", name, f"has {size:,} bytes, and {record.output.size_bytes:,} were written")
    elif digest != record.output.sha256:
        yield Fault("wrong hash", name, "is not as it was written: its SHA-256 differs from the record's")
    yield from _check_rows(path, name, record)


def _check_rows(path: Path, name: str, record: ShardReport) -> Iterator[Fault]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    statuses: Counter[str] = Counter()
    rows, gap, other = 0, "", None
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(BATCH_ROWS, columns=["shard", "index", "status"]):
                gap = gap or _first_gap(batch["index"].to_numpy(zero_copy_only=False), rows)
                shards = batch["shard"].unique().to_pylist()
                other = next((shard for shard in shards if shard != name), other)
                statuses += count_statuses(batch)
                rows += batch.num_rows
    except (pa.ArrowException, OSError, KeyError) as error:
        yield Fault("unreadable", name, f"has an output that is no whole Parquet file: {error}")
        return
    if gap:
        yield Fault("wrong rows", name, gap)
    if other is not None:
        yield Fault("wrong rows", name, f"has rows of shard {other}")
    if rows != record.rows:
        yield Fault("wrong rows", name, f"has {rows} rows, and its record says {record.rows}")
    expected = Counter({OK: record.captioned}) + Counter(record.failed)
    if statuses != expected:
        yield Fault("wrong counts", name, f"has rows {_shown(statuses)}, and its record says {_shown(expected)}")


def _first_gap(indices: np.ndarray, expected: int) -> str:
    """A sentence about the first row whose index is not its place; '' where all are."""
    wrong = np.flatnonzero(indices != np.arange(expected, expected + len(indices)))
    if not len(wrong):
        return ""
    place = expected + int(wrong[0])
    index = int(indices[wrong[0]])
    why = f"{place} is missing" if index > place else f"{index} is there twice"
    return f"has index {index} in row {place}: {why}"


def _shown(statuses: Counter[str]) -> str:
    return ", ".join(f"{status} {count}" for status, count in sorted(statuses.items())) or "none"


def _check_input(shard: Shard, count_samples: CountSamples, record: ShardReport, notes: list[str]) -> Iterator[Fault]:
    try:
        num_samples, version = count_samples(shard)
    except ShardError as error:
        if record.status != "failed":
            yield Fault("lost input", shard.name, f"cannot be counted again: {error}")
        return
    has_changed = version != record.input
    if has_changed:
        notes.append(f"{shard.name}: {shard.url} has changed since it was captioned")
    if num_samples != record.rows:
        kind: FaultKind = "changed input" if has_changed else "wrong rows"
        yield Fault(kind, shard.name, f"has {num_samples} samples in {shard.url}, and {record.rows} rows")


def _strangers(output: OutputFolder, names: Collection[str]) -> Iterator[Fault]:
    """Files that a reader of the output would take for captions or done-records of the run."""
    for path in (*output.data_files(), *output.record_files()):
        place = path.relative_to(output.root)
        name = place.relative_to(place.parts[0]).with_suffix("").as_posix()
        if name not in names:
            yield Fault("stranger", name, f"is no shard of the run, but {place} is there")
