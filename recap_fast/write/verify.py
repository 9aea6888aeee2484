"""Proves from an output folder that nothing is missing or there twice; with the inputs, also that each row belongs to
the image that it names.

The folder and, if wanted, the inputs go in. Out come the faults, each a sentence that says what to do if running again
is not enough. Memory does not grow with the output.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from recap_fast.atomic import sha256_of
from recap_fast.progress import OnProgress, unwatched
from recap_fast.records import OK, SCHEMA_VERSION, OutputFile, Shard, ShardReport
from recap_fast.text import counted, unicode
from recap_fast.write.caption_lists import CaptionLists
from recap_fast.write.compare import InputsToCompare, compare, find_shards, missing_shard
from recap_fast.write.done_record import read_record
from recap_fast.write.opening import not_as_written, read_lists, read_register
from recap_fast.write.output_folder import RUN_FILE, OutputFolder
from recap_fast.write.run_file import read_run
from recap_fast.write.stretches import count_flags, count_statuses

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recap_fast.write.units import Unit

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
    "gone image",
    "changed input",
]
_HERE = OutputFolder.at("")
_REDO = f"delete {_HERE.data('{0}')} and {_HERE.record('{0}')}, then run again"
_REMEDIES: Mapping[FaultKind, str] = {
    **dict.fromkeys(("wrong record", "wrong hash", "unreadable", "wrong rows", "wrong counts"), _REDO),
    "stranger": "move it elsewhere",
    "new input": "run again with the same --shards as now",
    "lost input": "mend it, then verify again",
    "gone image": "put it back, or run again with --prune",
    "changed input": "run again with --redo-changed",
}
"""What to do, by kind; '{0}' is the shard. The next run mends the kinds that are not here by itself."""
BATCH_ROWS = 65_536
LIST_BATCH_ROWS = 4096
"""Where the texts of captions are read, too."""
NUM_THREADS = 4
"""How many threads read inputs: hashing is faster than most disks."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong with a shard."""

    kind: FaultKind
    shard: str
    finding: str

    @property
    def sentence(self) -> str:
        """The finding without the shard's name, and what to do if running again is not enough."""
        remedy = _REMEDIES.get(self.kind)
        return unicode(f"{self.finding}; {remedy.format(self.shard)}" if remedy else self.finding)


@dataclass(slots=True)
class Verdict:
    """What `verify` found. The output is proven if there are no faults."""

    num_shards: int
    num_compared: int = 0
    """Shards whose rows were compared with the images of their inputs."""
    rows: int = 0
    captioned: int = 0
    captions_per_image: int = 1
    """That each row of them has."""
    failed: Counter[str] = field(default_factory=Counter)
    """Rows without a caption, by status."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Parts of the inputs that have no row, by reason."""
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences about what is not the output's fault, such as a truncated input."""

    def as_json(self) -> dict[str, object]:
        """All fields as `json.dumps` takes them, each fault with its sentence, and "proven"."""
        faults = [{**asdict(fault), "sentence": fault.sentence} for fault in self.faults]
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {"proven": not self.faults, **values, "faults": faults}


def verify(output: OutputFolder, inputs: InputsToCompare | None = None, progress: OnProgress = unwatched) -> Verdict:
    """Checks every shard of the run file; with `inputs`, also that each image has its row, by name and content.

    `progress` is told how many shards are checked, each of them twice with inputs.
    Raises ConfigError if the folder is not the output of a run, or if inputs of the same names lie elsewhere.
    """
    run = read_run(output, (SCHEMA_VERSION,))
    register = read_register(output, run)
    lists = read_lists(output, run)
    verdict = Verdict(num_shards=len(run.shards), captions_per_image=len(lists.prompts) or 1)
    records = {name: read_record(output, name) for name in run.shards}
    total = len(records) * (1 if inputs is None else 2)
    for number, (name, record) in enumerate(records.items()):
        progress(number, total)
        if record is None:
            verdict.faults.append(Fault("no record", name, "is not finished: run its command again"))
            continue
        if record.files and name not in register.units:
            raise not_as_written(output, f"{name} is a unit of images in its done-record, but not in {RUN_FILE}")
        _count(verdict, name, record)
        verdict.faults += _check_record(name, record)
        verdict.faults += _check_output(output, name, record, register.units.get(name), lists)
    if inputs is not None:
        _compare_all(verdict, output, inputs, find_shards(output, register, inputs), records, progress)
    verdict.faults += _strangers(output, run.shards.keys())
    return verdict


def _compare_all(
    verdict: Verdict,
    output: OutputFolder,
    inputs: InputsToCompare,
    shards: Sequence[Shard],
    records: Mapping[str, ShardReport | None],
    progress: OnProgress,
) -> None:
    """Compares the shards of the inputs with their rows, if there are rows that can be read."""
    new = [shard for shard in shards if shard.name not in records]
    verdict.faults += [Fault("new input", shard.name, missing_shard(shard)) for shard in new]
    unreadable = {fault.shard for fault in verdict.faults if fault.kind in ("no output", "unreadable")}
    written = {name for name, record in records.items() if record is not None and record.output is not None}
    with_rows = [shard for shard in shards if shard.name in written - unreadable]
    verdict.num_compared = len(with_rows)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        # the deadline of reads is a context variable
        calls = [partial(copy_context().run, compare, output, inputs, shard) for shard in with_rows]
        done = zip(with_rows, pool.map(lambda call: call(), calls), strict=True)
        for number, (shard, found) in enumerate(done):
            progress(len(records) + number, 2 * len(records))
            verdict.faults += [Fault(each.kind, shard.name, each.sentence) for each in found]


def _count(verdict: Verdict, name: str, record: ShardReport) -> None:
    verdict.rows += record.rows
    verdict.captioned += record.captioned
    verdict.failed.update(record.failed)
    verdict.left_out.update(record.left_out)
    if record.status == "truncated":
        verdict.notes.append(f"{name}: the input is truncated ({record.error}); its whole images are captioned")


def _check_record(name: str, record: ShardReport) -> Iterator[Fault]:
    if record.shard != name:
        yield Fault("wrong record", name, f"has the done-record of {record.shard}")
    if record.status not in ("complete", "truncated"):
        yield Fault("not complete", name, f"is recorded as {record.status}: {record.error}")
    num_failed = sum(record.failed.values())
    if record.rows != record.captioned + num_failed:
        rows = counted(record.rows, "row")
        sentence = f"has {rows} by its record, but {record.captioned:,} captioned and {num_failed:,} failed"
        yield Fault("wrong counts", name, sentence)


def _check_output(
    output: OutputFolder, name: str, record: ShardReport, unit: "Unit | None", lists: CaptionLists
) -> Iterator[Fault]:
    file = output.data(name)
    if record.output is None:
        if record.rows or record.status != "failed" or output.store.stat(file) is not None:
            yield Fault("no output", name, "has no output by its record")
        return
    try:
        with output.store.local(file) as path:
            yield from _check_file(path, name, record, record.output, unit, lists)
    except FileNotFoundError:
        yield Fault("no output", name, "has no output: the file is gone")
    except OSError as error:
        if output.is_out_of_reach(error):
            raise
        yield Fault("unreadable", name, f"has no output that can be read: {error}")


def _check_file(
    path: Path, name: str, record: ShardReport, written: OutputFile, unit: "Unit | None", lists: CaptionLists
) -> Iterator[Fault]:
    size, digest = path.stat().st_size, sha256_of(path)
    if size != written.size_bytes:
        yield Fault("wrong hash", name, f"has {counted(size, 'byte')}, but {written.size_bytes:,} were written")
    elif digest != written.sha256:
        yield Fault("wrong hash", name, "is not as it was written: its SHA-256 differs from the record's")
    yield from _check_rows(path, name, record, unit, lists)


def _check_rows(
    path: Path, name: str, record: ShardReport, unit: "Unit | None", lists: CaptionLists
) -> Iterator[Fault]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = np.arange(record.rows) if unit is None else np.array(list(unit.places), np.int64)
    statuses: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    rows, wrong, other = 0, "", None
    try:
        with pq.ParquetFile(path) as table:
            for batch in _batches(table, lists):
                indices = batch["index"].to_numpy()
                wrong = wrong or _first_gap(indices, expected[rows : rows + len(indices)], rows)
                wrong = wrong or _first_stranger(indices, batch["file_name"], unit)
                wrong = wrong or lists.fault(batch)
                shards = batch["shard"].unique().to_pylist()
                other = next((shard for shard in shards if shard != name), other)
                statuses += count_statuses(batch)
                flags += count_flags(batch)
                rows += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Fault("unreadable", name, f"has an output that cannot be read: {error}")
        return
    if wrong:
        yield Fault("wrong rows", name, wrong)
    if other is not None:
        yield Fault("wrong rows", name, f"has rows of shard {other}")
    if rows != record.rows:
        yield Fault("wrong rows", name, f"has {counted(rows, 'row')}, but its record says {record.rows:,}")
    elif rows != len(expected):
        yield Fault("wrong rows", name, f"has {counted(rows, 'row')}, but its unit {counted(len(expected), 'image')}")
    by_status = Counter({OK: record.captioned}) + Counter(record.failed)
    if statuses != by_status:
        yield Fault("wrong counts", name, f"has rows {_shown(statuses)}, but its record says {_shown(by_status)}")
    if flags != record.flags:
        yield Fault("wrong counts", name, f"has flags {_shown(flags)}, but its record says {_shown(record.flags)}")


def _batches(table: "pq.ParquetFile", lists: CaptionLists) -> Iterator["pa.RecordBatch"]:
    """Some columns of an output, batch by batch. Raises ValueError if a run cannot have written it."""
    from recap_fast.write.schema import SCHEMA

    if table.schema_arrow.remove_metadata() != SCHEMA:
        raise ValueError("it has other columns")
    columns = ["shard", "index", "status", "file_name", "flags", *lists.columns]
    for batch in table.iter_batches(LIST_BATCH_ROWS if lists.prompts else BATCH_ROWS, columns=columns):
        for column in ("shard", "index", "status", "flags"):
            if num := batch[column].null_count:
                raise ValueError(f"it has {counted(num, 'row')} without {column}")
        yield batch


def _first_gap(indices: NDArray[np.int64], expected: NDArray[np.int64], first: int) -> str:
    """A sentence about the first row with an unexpected index; '' if there is none."""
    num = min(len(indices), len(expected))
    wrong = np.flatnonzero(indices[:num] != expected[:num])
    if not len(wrong):
        return f"has index {int(indices[num])} in row {first + num}: it is one too many" if len(indices) > num else ""
    index, place = int(indices[wrong[0]]), int(expected[wrong[0]])
    why = f"{place} is missing" if index > place else f"{index} is there twice"
    return f"has index {index} in row {first + int(wrong[0])}: {why}"


def _first_stranger(indices: NDArray[np.int64], names: "pa.Array", unit: "Unit | None") -> str:
    """A sentence about the first row whose file is not the one at its index in the unit; '' if there is none."""
    if unit is None:
        return ""
    for index, name in zip(indices.tolist(), names.to_pylist(), strict=True):
        if 0 <= index < len(unit.files) and name != (mine := unicode(unit.file_name(index))):
            return f"has a row of {name} with index {index}, which belongs to {mine}"
    return ""


def _shown(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def _strangers(output: OutputFolder, names: Collection[str]) -> Iterator[Fault]:
    """Files that look like captions or done-records of the run, and are not."""
    for file in (*output.data_files(), *output.record_files()):
        name = output.shard_of(file.name)
        if name not in names:
            yield Fault("stranger", name, f"is not a shard of the run, but {file.name} is there")
