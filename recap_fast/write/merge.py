"""Several Parquet files with rows of one shard in; its rows in input order out, each index once, in bounded memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap_fast.write.schema import SCHEMA


def merge_rows(
    files: Sequence[Path], new: Sequence[pa.RecordBatch], batch_rows: int = 1000
) -> Iterator[pa.RecordBatch]:
    """Yields the union of the files' rows and the new ones, sorted by index.

    Where an index stands in several, later files win over earlier ones, and the new rows over all files. Each file
    must be sorted by index. Of each only the batch at hand is held.
    """
    streams = [*(_read(path, batch_rows) for path in files), (batch for batch in new if batch.num_rows)]
    heads = [next(stream, None) for stream in streams]
    while any(heads):
        boundary = min(batch["index"][-1].as_py() for batch in heads if batch)
        parts = []
        for rank, batch in enumerate(heads):
            if batch:
                count = int(np.searchsorted(batch["index"].to_numpy(), boundary, side="right"))
                parts += [batch.slice(0, count)] if count else []
                heads[rank] = batch.slice(count) if count < batch.num_rows else next(streams[rank], None)
        yield parts[0] if len(parts) == 1 else _newest(parts)


def _read(path: Path, batch_rows: int) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_rows):
            if batch.num_rows:
                yield batch.cast(SCHEMA) if batch.schema != SCHEMA else batch


def _newest(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Sorts the parts' rows by index; of rows with one index that of the last part stays."""
    table = pa.Table.from_batches(parts).combine_chunks()
    indices = table.column("index").to_numpy()
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    last_of_index = np.append(ordered[1:] != ordered[:-1], True)
    return table.take(order[last_of_index]).combine_chunks().to_batches()[0]
