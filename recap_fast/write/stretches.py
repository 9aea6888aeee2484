"""Stretches, finished rows of an unfinished shard: files `<first>-<last>.<time>.<owner>.<digest>.parquet`.

The folder of one shard goes in, its stretches come out, oldest first. Others write the files. `<digest>` is the start
of the file's SHA-256: a stretch that is not as it was written is removed, and its rows are done again.
Until there is a done-record, a file `<SHA-256>.<owner>.output` tells how the shard's output was written.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from recap_fast.atomic import is_alive, owner, sha256_of
from recap_fast.records import OK, READ_AGAIN, UNREADABLE, ShardReport
from recap_fast.write.output_folder import OutputFolder

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

SHARD_KEY = "recap_fast.shard"
"""Parquet metadata of stretches and outputs: the name of the shard."""
_UNUSABLE = "%s cannot be used (%s): its images are captioned again"
_DIGITS = 32
_NAME = re.compile(
    rf"(?P<first>\d+)-(?P<last>\d+)\.(?P<made_ns>\d+)\.(?P<owner>.+)\.(?P<digest>[0-9a-f]{{{_DIGITS}}})\.parquet"
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A file with finished rows of a shard."""

    name: str
    """In the output."""
    first: int
    last: int
    """Indices of the first and the last row."""
    made_ns: int
    owner: str
    digest: str


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows of earlier runs that need not be done again."""

    files: tuple[Path, ...] = ()
    """Parquet files with these rows. If two have the same index, the row of the later file counts."""
    done: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """The rows' indices, ascending; other rows of the files do not count."""
    close: Callable[[], None] = lambda: None
    """Gives the files up: of an object store they are local copies."""


def stretch_name(first: int, last: int, sha256: str) -> str:
    """A file name for rows `first` to `last` that is given only once, by all processes together."""
    return f"{first:09d}-{last:09d}.{time.time_ns()}.{owner()}.{sha256[:_DIGITS]}.parquet"


def stretches(output: OutputFolder, shard: str) -> list[Stretch]:
    """The stretches of a shard, oldest first."""
    return _among(_files(output, shard))


def _among(names: Iterable[str]) -> list[Stretch]:
    found = [
        Stretch(name, int(match["first"]), int(match["last"]), int(match["made_ns"]), match["owner"], match["digest"])
        for name in names
        if (match := _NAME.fullmatch(name.rpartition("/")[2]))
    ]
    return sorted(found, key=lambda stretch: (stretch.made_ns, stretch.name))


def _files(output: OutputFolder, shard: str) -> Iterator[str]:
    """The names of the files in a shard's folder, without those in folders below it, which belong to other shards."""
    folder = output.partial(shard)
    names = (file.name for file in output.store.list(folder))
    return (name for name in names if "/" not in name[len(folder) + 1 :])


def whole_stretches(output: OutputFolder, shard: str, files: ExitStack, since_ns: int = 0) -> list[Path]:
    """The shard's stretches made after `since_ns` that are as they were written, oldest first, for as long as `files`
    is open.

    Reads all of them. A damaged one is removed with a warning.
    """
    found = []
    for stretch in stretches(output, shard):
        if stretch.made_ns <= since_ns:
            continue
        try:
            path = files.enter_context(output.store.local(stretch.name))
            fault = _fault(path, stretch, shard)
        except FileNotFoundError:  # another process has finished the shard since
            continue
        except OSError as error:
            if output.is_out_of_reach(error):
                raise
            logger.warning(_UNUSABLE, output.store.shown(stretch.name), error)
            continue
        if fault is None:
            found.append(path)
        else:
            logger.warning(_UNUSABLE, output.store.shown(stretch.name), fault)
            output.store.delete([stretch.name])
    return found


def _fault(path: Path, stretch: Stretch, shard: str) -> str | None:
    """What is wrong with a stretch of this shard, or None. Raises OSError if it is gone or cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recap_fast.write.schema import SCHEMA

    if not sha256_of(path).startswith(stretch.digest):
        return "it is not as it was written"
    try:
        with pq.ParquetFile(path) as file:
            if file.schema_arrow.remove_metadata() != SCHEMA:
                return "it has other columns"
            found = (file.metadata.metadata or {}).get(SHARD_KEY.encode(), b"").decode()
            column = file.read(columns=["index"])["index"]
    except (ValueError, pa.ArrowException) as error:
        return str(error)
    if found != shard:
        return f"it belongs to shard {found}"
    indices = column.to_numpy()
    ends = [*indices[:1], *indices[-1:]]
    if column.null_count or ends != [stretch.first, stretch.last] or (np.diff(indices) < 1).any():
        return "its rows are not those of its name, in order"
    return None


def announce_output(output: OutputFolder, shard: str, sha256: str) -> None:
    """Records, before a shard's output is put in its place, that it has this SHA-256."""
    output.store.put(f"{output.partial(shard)}/{sha256}.{owner()}.output", b"")


def whole_output(output: OutputFolder, shard: str, record: ShardReport | None, files: ExitStack) -> Path | None:
    """The shard's output if it is as it was written, by its done-record or as announced; otherwise None.

    It is there for as long as `files` is open. Reads all of it. A warning names a damaged one.
    """
    name = output.data(shard)
    if output.store.stat(name) is None:
        return None
    try:
        path = files.enter_context(output.store.local(name))
        sha256 = sha256_of(path)
    except OSError as error:
        if output.is_out_of_reach(error):
            raise
        logger.warning("%s cannot be read (%s): its images are captioned again", output.store.shown(name), error)
        return None
    recorded = record is not None and record.output is not None and record.output.sha256 == sha256
    announced = (file for file in _files(output, shard) if _announced(file).partition(".")[0] == sha256)
    if recorded or next(announced, None) is not None:
        return path
    logger.warning("%s is not as it was written: its images are captioned again", output.store.shown(name))
    return None


def remove_stretches(output: OutputFolder, shard: str, before_ns: int | None = None) -> None:
    """Removes a finished shard's stretches.

    `before_ns`: only those made before that. What another living process of this machine is at work on is its to
    remove. One of another machine finds out, if it has not ended, that the shard is finished.
    """
    files = list(_files(output, shard))
    found = _among(files)
    names = [each.name for each in found if _is_over(each.owner) and (not before_ns or each.made_ns < before_ns)]
    announcements = ((name, _announced(name).partition(".")[2]) for name in files)
    names += [name for name, process in announcements if process and _is_over(process)]
    output.store.delete(names)


def _announced(name: str) -> str:
    """`<SHA-256>.<owner>` of a file that announces an output; '' of any other."""
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    return stem if suffix == "output" else ""


def _is_over(process: str) -> bool:
    return process == owner() or not is_alive(process, elsewhere=False)


def recount(file: BinaryIO, report: ShardReport) -> ShardReport:
    """The report with the counts of the open Parquet file's rows."""
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(file).read(columns=["status", "flags"])
    return report.with_rows(count_statuses(rows), count_flags(rows))


def count_statuses(rows: "pa.RecordBatch | pa.Table") -> Counter[str]:
    """The number of rows by status."""
    return _count(rows.column("status"))


def count_flags(rows: "pa.RecordBatch | pa.Table") -> Counter[str]:
    """The number of rows with each flag."""
    import pyarrow.compute as pc

    return _count(pc.list_flatten(rows.column("flags")))


def _count(values: "pa.Array | pa.ChunkedArray") -> Counter[str]:
    return Counter({entry["values"]: entry["counts"] for entry in values.value_counts().to_pylist()})


def done_rows(
    paths: Sequence[Path], versions: str | Mapping[int, str | None] | None, *, retry: Collection[str]
) -> NDArray[np.int64]:
    """Ascending indices of the rows that need not be done again: captioned, or failed with a status not to be retried.

    `versions` are those that the rows' inputs must have had, by index if they differ; None means any. A row whose index
    has none does not count. If several files have a row, that of the last one counts.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not paths:
        return np.empty(0, np.int64)
    columns = ["index", "status", "warning", "input_version"]
    rows = pa.concat_tables([pq.read_table(path, columns=columns, partitioning=None) for path in paths])
    # latest first: unique keeps the first of equal indices
    indices, first = np.unique(rows["index"].to_numpy()[::-1], return_index=True)
    done = _is_finished(rows, retry)
    if isinstance(versions, str):
        done &= pc.fill_null(pc.equal(rows["input_version"], versions), fill_value=False).to_numpy()
    elif versions is not None:
        pairs = zip(rows["index"].to_pylist(), rows["input_version"].to_pylist(), strict=True)
        done &= np.array([i in versions and versions[i] in (None, version) for i, version in pairs], bool)
    done_indices: NDArray[np.int64] = indices[done[::-1][first]]
    return done_indices


def _is_finished(rows: "pa.Table", retry: Collection[str]) -> NDArray[np.bool_]:
    """Whether each row need not be done again, as far as its own columns tell."""
    import pyarrow as pa
    import pyarrow.compute as pc

    status = rows["status"]
    again = pc.or_(
        pc.equal(status, UNREADABLE), pc.fill_null(pc.match_substring(rows["warning"], READ_AGAIN), fill_value=False)
    )
    if "all" in retry:
        again = pc.or_(again, pc.not_equal(status, OK))
    elif retry:
        again = pc.or_(again, pc.is_in(status, pa.array(sorted(retry), pa.string())))
    finished: NDArray[np.bool_] = ~again.to_numpy()
    return finished
