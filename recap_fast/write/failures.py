"""The images of an output that have no caption, and the shards that could not be read whole.

An output folder goes in, finished or not. Its rows whose status is not 'ok' come out, shard by shard.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from recap_fast.records import OK, ShardReport
from recap_fast.write.done_record import read_record
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.rows import read_rows
from recap_fast.write.run_file import read_run


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
        for batch in read_rows(output, name, COLUMNS):
            failed = pc.not_equal(batch["status"], OK)
            if statuses:
                failed = pc.and_(failed, pc.is_in(batch["status"], pa.array(statuses, pa.string())))
            yield from (Failure(**row) for row in batch.filter(failed).to_pylist())


def failed_shards(output: OutputFolder) -> list[ShardReport]:
    """The records of the shards that could not be read, or not to their end. Raises ConfigError as `failures` does."""
    records = (read_record(output, name) for name in read_run(output).shards)
    return [record for record in records if record is not None and record.status != "complete"]
