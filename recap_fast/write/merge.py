"""Several Parquet files with rows of one shard in; its rows in input order out, each index once, in bounded memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recap_fast.write.schema import SCHEMA


class _Source:
    """The rows of one file, or of batches in memory, in order of index; only the batch at hand is held."""

    def __init__(self, rank: int, batches: Iterator[pa.RecordBatch]):
        self.rank = rank
        self._batches = batches
        self._batch: pa.RecordBatch | None = None
        self._indices: NDArray[np.int64] = np.empty(0, np.int64)
        self._advance()

    @property
    def empty(self) -> bool:
        return self._batch is None

    @property
    def last_index(self) -> int:
        assert self._batch is not None
        return int(self._indices[-1])

    def take_until(self, boundary: int) -> pa.RecordBatch | None:
        """The rows of the batch at hand up to this index; they are used up by it."""
        if self._batch is None:
            return None
        count = int(np.searchsorted(self._indices, boundary, side="right"))
        taken, self._batch = self._batch.slice(0, count), self._batch.slice(count)
        self._indices = self._indices[count:]
        if not len(self._indices):
            self._advance()
        return taken

    def _advance(self) -> None:
        self._batch = next((b for b in self._batches if b.num_rows), None)
        if self._batch is not None:
            self._indices = self._batch.column("index").to_numpy()


def merge_rows(
    files: Sequence[Path], new: Sequence[pa.RecordBatch], batch_rows: int = 1000
) -> Iterator[pa.RecordBatch]:
    """Yields the union of the files' rows and the new ones, sorted by index.

    Where an index stands in several, later files win over earlier ones, and the new rows over all files. Each file
    must be sorted by index.
    """
    streams: list[Iterator[pa.RecordBatch]] = [_read(path, batch_rows) for path in files]
    sources = [_Source(rank, stream) for rank, stream in enumerate([*streams, iter(new)])]
    while sources := [s for s in sources if not s.empty]:
        boundary = min(s.last_index for s in sources)
        parts = [(s.rank, rows) for s in sources if (rows := s.take_until(boundary)) is not None and rows.num_rows]
        yield parts[0][1] if len(parts) == 1 else _newest(parts)


def _read(path: Path, batch_rows: int) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_rows):
            yield batch.cast(SCHEMA) if batch.schema != SCHEMA else batch


def _newest(parts: Sequence[tuple[int, pa.RecordBatch]]) -> pa.RecordBatch:
    """Sorts the parts' rows by index; of rows with one index the part of the highest rank stays."""
    table = pa.Table.from_batches([rows for _, rows in parts]).combine_chunks()
    indices = table.column("index").to_numpy()
    ranks = np.concatenate([np.full(rows.num_rows, rank) for rank, rows in parts])
    order = np.lexsort((ranks, indices))
    ordered = indices[order]
    last_of_index = np.append(ordered[1:] != ordered[:-1], True)
    return table.take(order[last_of_index]).combine_chunks().to_batches()[0]
