"""Parquet files of one shard and new rows in; all their rows out, sorted, in batches of bounded size."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recap_fast.errors import ShardError
from recap_fast.write.schema import LATER, SCHEMA
from recap_fast.write.stretches import Kept

STEP_BYTES = 16 << 20
"""Largest size of rows that are read from a file at once, and that are sorted at once."""
MADE_WITH_KEY = "recap_fast.made_with"
"""Parquet metadata of stretches and outputs: a list of what made their rows, see `Ledger.made_with`."""


def read_made_with(path: Path) -> list[Mapping[str, Any]]:
    """What the rows of a Parquet file were made with: one entry for each setting or machine that differed."""
    with _opened(path) as file:
        made_with: list[Mapping[str, Any]] = json.loads(
            (file.metadata.metadata or {}).get(MADE_WITH_KEY.encode(), "[]")
        )
        return made_with


def merge_rows(
    files: Sequence[Path],
    new: Iterable[pa.RecordBatch],
    batch_rows: int = 1000,
    step_bytes: int = STEP_BYTES,
    kept: Kept | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yields the kept rows, the files' rows and the new ones, sorted by index.

    If several have the same index, later files win over earlier ones and over kept rows, and new rows win over all.
    Each source must be sorted by index. A file is open from its first row to its last, and only one batch of it is in
    memory: `batch_rows` rows or `step_bytes`. `columns` are those to read, 'index' among them; None for all. A file may
    lack some of `LATER`, which are null. Raises FileNotFoundError if a file is gone, and ShardError if one cannot be
    read.
    """
    kept = kept or Kept()
    files = [*kept.files, *files]
    ranks = [*((_first_index(path), rank) for rank, path in enumerate(files)), (-1, len(files))]
    waiting = sorted(ranks, reverse=True)
    heads: dict[int, pa.RecordBatch] = {}
    streams: dict[int, Iterator[pa.RecordBatch]] = {}

    def advance(rank: int) -> None:
        head = next(streams[rank], None)
        if head is None:
            heads.pop(rank, None)
        else:
            heads[rank] = head

    while waiting or heads:
        while waiting and (not heads or waiting[-1][0] <= _boundary(heads.values())):
            _, rank = waiting.pop()
            rows = _read(files[rank], batch_rows, step_bytes, columns) if rank < len(files) else iter(new)
            rows = _only(rows, kept.done) if rank < len(kept.files) else rows
            streams[rank] = (batch for batch in rows if batch.num_rows)
            advance(rank)
        if not heads:
            break
        boundary, parts = _boundary(heads.values()), []
        for rank, head in sorted(heads.items()):
            part, rest = _split(head, boundary)
            parts.append(part)
            if rest.num_rows:
                heads[rank] = rest
            else:
                advance(rank)
        yield from _newest(parts, step_bytes)


def _only(batches: Iterable[pa.RecordBatch], indices: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """The rows whose index is among these."""
    for batch in batches:
        yield batch.filter(pa.array(np.isin(batch["index"].to_numpy(), indices)))


def _boundary(heads: Iterable[pa.RecordBatch]) -> int:
    """The index up to which all rows of the open files are in `heads`."""
    return min(int(head["index"][-1].as_py()) for head in heads)


def _split(batch: pa.RecordBatch, boundary: int) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    count = int(np.searchsorted(batch["index"].to_numpy(), boundary, side="right"))
    return batch.slice(0, count), batch.slice(count)


def _newest(parts: Sequence[pa.RecordBatch], max_bytes: int) -> Iterator[pa.RecordBatch]:
    """Sorts the parts' rows by index; if several have the same index, the last part's row stays.

    Parts of more than `max_bytes` are sorted piece by piece, so that no column comes near Arrow's 2 GiB.
    """
    parts = [part for part in parts if part.num_rows]
    if len(parts) < 2:
        yield from parts
        return
    first = min(part["index"][0].as_py() for part in parts)
    last = max(part["index"][-1].as_py() for part in parts)
    if first == last:
        yield parts[-1]
    elif sum(part.nbytes for part in parts) > max_bytes:
        halves = [_split(part, (first + last) // 2) for part in parts]
        for pieces in zip(*halves, strict=True):
            yield from _newest(pieces, max_bytes)
    else:
        table = pa.Table.from_batches(parts)
        indices = table["index"].to_numpy()
        order = np.argsort(indices, kind="stable")
        last_of_index = np.append(np.diff(indices[order]) != 0, True)
        (batch,) = table.combine_chunks().take(order[last_of_index]).combine_chunks().to_batches()
        yield batch


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"{path} cannot be read: {error}") from error


def _first_index(path: Path) -> int:
    """The lowest index of the file, or -1 if its metadata does not tell."""
    with _opened(path) as file:
        if not file.metadata.num_row_groups:
            return -1
        statistics = file.metadata.row_group(0).column(SCHEMA.get_field_index("index")).statistics
        return int(statistics.min) if statistics is not None and statistics.has_min_max else -1


def _read(
    path: Path, batch_rows: int, step_bytes: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
    with _opened(path) as file:
        later = [] if columns is None else [n for n in columns if n in LATER and n not in file.schema_arrow.names]
        there = None if columns is None else [name for name in columns if name not in later]
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            rows = max(1, min(batch_rows, group.num_rows * step_bytes // max(1, group.total_byte_size)))
            for batch in file.iter_batches(rows, row_groups=[number], columns=there):
                for name in later:
                    batch = batch.append_column(SCHEMA.field(name), pa.nulls(batch.num_rows, SCHEMA.field(name).type))
                batch = batch.select(schema.names)
                yield batch.cast(schema) if batch.schema != schema else batch
