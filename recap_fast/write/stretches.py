"""Finished stretches of shards in work: files `<first>-<last>.<time>.<owner>.parquet`.

In goes the folder of one shard, out come its stretches in the order of their making. Others write the files.
"""

import contextlib
import logging
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from recap_fast.atomic import is_alive, owner
from recap_fast.records import OK, READ_AGAIN, UNREADABLE, ShardReport
from recap_fast.write.output_folder import OutputFolder

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(\d+)-(\d+)\.(?P<made_ns>\d+)\.(?P<owner>.+)\.parquet")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of a shard that are safe on disk."""

    path: Path
    made_ns: int
    owner: str


def stretch_name(first: int, last: int) -> str:
    """A file name for rows `first` to `last` that no other process gives, nor this one twice."""
    return f"{first:09d}-{last:09d}.{time.time_ns()}.{owner()}.parquet"


def stretches(folder: Path) -> list[Stretch]:
    """The stretches in a shard's folder, oldest first; those of shards further down are not among them."""
    matches = ((path, _NAME.fullmatch(path.name)) for path in folder.glob("*.parquet"))
    found = [Stretch(path, int(match["made_ns"]), match["owner"]) for path, match in matches if match]
    return sorted(found, key=lambda stretch: (stretch.made_ns, stretch.path.name))


def remove_stretches(output: OutputFolder, name: str, before_ns: int | None = None) -> None:
    """Removes a shard's stretches of this process and of dead ones, and the folders that are empty then.

    `before_ns`: only those made before. What another process is still at work on stays; it removes that itself.
    """
    folder = output.partial(name)
    for stretch in stretches(folder):
        if (stretch.owner == owner() or not is_alive(stretch.owner)) and (not before_ns or stretch.made_ns < before_ns):
            stretch.path.unlink(missing_ok=True)
    for parent in (folder, *folder.parents):
        if parent == output.root:
            return
        with contextlib.suppress(OSError):  # not empty, or gone
            parent.rmdir()


def recount(file: BinaryIO, report: ShardReport) -> ShardReport:
    """The report with the rows, captions and failures that the open Parquet file has."""
    import pyarrow.parquet as pq

    return report.with_rows(count_statuses(pq.ParquetFile(file).read(columns=["status"])))


def count_statuses(rows: "pa.RecordBatch | pa.Table") -> Counter[str]:
    """How many of the rows have which status."""
    return Counter({entry["values"]: entry["counts"] for entry in rows.column("status").value_counts().to_pylist()})


def readable(paths: Iterable[Path]) -> list[Path]:
    """Those of some Parquet files that can be opened; a warning names the others, whose rows are done again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for path in paths:
        try:
            pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            logger.warning("%s cannot be read (%s): its rows are done again", path, error)
        else:
            found.append(path)
    return found


def done_rows(
    paths: Sequence[Path], versions: str | Mapping[int, str | None] | None, *, retry: Collection[str]
) -> NDArray[np.int64]:
    """Ascending indices of the rows that are captioned or, unless their status is to be retried, were read.

    `versions` are those of the inputs that rows must have been made from, by index where they differ; None: any. A row
    whose index has none does not count. Where several files have a row, that of the last one does.
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
    """Whether each row need not be done again for what it says itself."""
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
