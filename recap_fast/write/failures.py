"""The images of an output that have no caption, and the shards that could not be read whole.

An output folder goes in, finished or not. Its rows whose status is not 'ok' come out, shard by shard.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recap_fast.errors import RecapError
from recap_fast.records import OK, ShardReport
from recap_fast.write.done_record import read_record
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import read_run
from recap_fast.write.stretches import stretches


@dataclass(frozen=True, slots=True)
class Failure:
    """A row without a caption; the fields are columns of the output. Some are None if a whole shard failed."""

    shard: str
    index: int | None
    key: str | None
    file_name: str | None
    status: str
    error: str | None


COLUMNS = list(Failure.__dataclass_fields__)


def failures(output: OutputFolder, statuses: Collection[str] = ()) -> Iterator[Failure]:
    """The rows without a caption, of these statuses or of all, shard by shard.

    If an image was done again, only its last row counts. Only one batch of rows is in memory. Raises ConfigError if the
    folder is not the output of a run, and RecapError for a file that cannot be read.
    """
    for name in read_run(output).shards:
        try:
            with ExitStack() as files:
                paths = [files.enter_context(output.store.local(file)) for file in _files(output, name)]
                for path, indices in zip(paths, _last_rows(paths), strict=True):
                    yield from _failures(path, indices, statuses)
        except FileNotFoundError:  # a run has finished the shard since
            continue
        except (OSError, pa.ArrowException) as error:
            raise RecapError(
                f"the rows of shard {name} cannot be read ({error}): `recap-fast verify` says what to do."
            ) from error


def _failures(path: Path, indices: pa.Array | None, statuses: Collection[str]) -> Iterator[Failure]:
    """Those of one file; `indices`: the rows that count, None for all."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=COLUMNS):
            failed = pc.not_equal(batch["status"], OK)
            if statuses:
                failed = pc.and_(failed, pc.is_in(batch["status"], pa.array(statuses, pa.string())))
            if indices is not None:
                failed = pc.and_(failed, pc.is_in(batch["index"], indices))
            yield from (Failure(**row) for row in batch.filter(failed).to_pylist())


def _files(output: OutputFolder, name: str) -> list[str]:
    """The files with rows of a shard, oldest first, without stretches whose rows are in its output already."""
    record, data = read_record(output, name), output.data(name)
    is_there = output.store.stat(data) is not None
    since_ns = 0 if record is None or not is_there else record.finished_ns
    later = [stretch.name for stretch in stretches(output, name) if stretch.made_ns > since_ns]
    return [data, *later] if is_there else later


def _last_rows(paths: Sequence[Path]) -> Sequence[pa.Array | None]:
    """For each file, the indices that no later file has; None for a single file, where all rows count."""
    if len(paths) < 2:
        return [None] * len(paths)
    columns = [pq.read_table(path, columns=["index"], partitioning=None)["index"].to_numpy() for path in paths]
    indices, first = np.unique(np.concatenate(columns)[::-1], return_index=True)
    last = np.repeat(np.arange(len(paths)), [len(column) for column in columns])[::-1][first]
    return [pa.array(indices[last == number]) for number in range(len(paths))]


def failed_shards(output: OutputFolder) -> list[ShardReport]:
    """The records of the shards that could not be read, or not to their end. Raises ConfigError as `failures` does."""
    records = (read_record(output, name) for name in read_run(output).shards)
    return [record for record in records if record is not None and record.status != "complete"]
