"""The rows of an output as whoever comes after the run reads them: shard by shard, in order, finished or not.

Of an image that was done again the last row counts. Score columns are filled in from the files of `recap-fast score`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap_fast.errors import RecapError, ShardError
from recap_fast.records import ShardReport
from recap_fast.write.done_record import read_record
from recap_fast.write.merge import merge_rows
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.schema import SCHEMA
from recap_fast.write.stretches import stretches

BATCH_ROWS = 4096
SCORES: Mapping[str, tuple[str, str]] = {
    "clip": ("re_clip_score", "org_clip_score"),
    "rating": ("re_gpt4v_score", "org_gpt4v_score"),
}
"""The columns that each kind of score fills: of our caption, and of the original one."""
CAPTIONS_KEY = "recap_fast.captions"
"""Parquet metadata of a file of scores: the SHA-256 of the captions that it was made of. They count for no others."""


def read_rows(output: OutputFolder, shard: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a shard, ascending by index, with these columns in this order, or all.

    Only some batches are in memory. A shard that a run finishes meanwhile is read from its finished file if no row was
    read yet. Raises RecapError if a file cannot be read.
    """
    wanted, has_begun = list(SCHEMA.names if columns is None else columns), False
    try:
        with ExitStack() as files:
            record = read_record(output, shard)
            names = _files(output, shard, record)
            paths = [files.enter_context(output.store.local(name)) for name in names]
            scores = _read_scores(output, shard, record, wanted) if names == [output.data(shard)] else {}
            for batch in merge_rows(paths, (), BATCH_ROWS, columns=["index", *(c for c in wanted if c != "index")]):
                has_begun = True
                yield _with_scores(batch, scores).select(wanted)
    except (OSError, pa.ArrowException, ShardError) as error:
        if isinstance(error, FileNotFoundError) and not has_begun:
            yield from read_rows(output, shard, columns)
            return
        raise RecapError(
            f"the rows of shard {shard} cannot be read ({error}): `recap-fast verify` says what to do."
        ) from error


def _files(output: OutputFolder, shard: str, record: ShardReport | None) -> list[str]:
    """The files with rows of a shard, oldest first, without stretches whose rows are in its output already."""
    data = output.data(shard)
    is_there = output.store.stat(data) is not None
    since_ns = 0 if record is None or not is_there else record.finished_ns
    later = [stretch.name for stretch in stretches(output, shard) if stretch.made_ns > since_ns]
    return [data, *later] if is_there else later


def _read_scores(
    output: OutputFolder, shard: str, record: ShardReport | None, wanted: Sequence[str]
) -> dict[str, pa.Table]:
    """The scores of a finished shard, by column; none of captions that have changed since.

    Raises RecapError for a damaged file.
    """
    found: dict[str, pa.Table] = {}
    for kind, columns in SCORES.items():
        if record is None or record.output is None or not {*columns}.intersection(wanted):
            continue
        name = output.scores(kind, shard)
        try:
            with output.store.local(name) as path, pq.ParquetFile(path) as file:
                made_of = (file.metadata.metadata or {}).get(CAPTIONS_KEY.encode(), b"").decode()
                if made_of == record.output.sha256:
                    table = file.read(columns=["index", *columns])
                    found.update(dict.fromkeys(columns, table))
        except FileNotFoundError:
            continue
        except pa.ArrowException as error:
            raise RecapError(
                f"{output.store.shown(name)} cannot be read ({error}): the command `recap-fast score` that made it "
                "makes it again; without the file, there are no scores of this shard."
            ) from error
    return found


def _with_scores(batch: pa.RecordBatch, scores: Mapping[str, pa.Table]) -> pa.RecordBatch:
    """The batch with the score of each row; null for a row that has none."""
    for column, table in scores.items():
        if column not in batch.schema.names:
            continue
        indices, scored = batch["index"].to_numpy(), table["index"].to_numpy()
        places = np.searchsorted(scored, indices).clip(0, max(0, len(scored) - 1))
        missing = scored[places] != indices if len(scored) else np.ones(len(indices), bool)
        values = table[column].combine_chunks().take(pa.array(places, mask=missing))
        number = batch.schema.get_field_index(column)
        batch = batch.set_column(number, batch.schema.field(number), values.cast(SCHEMA.field(column).type))
    return batch
