"""Finished samples of one shard in, in any order; one Parquet file with its rows in input order out.

Every `STRETCH_ROWS` of them, or after `STRETCH_SECONDS`, go to disk as a stretch: a small Parquet file of their own, so
that a crash costs no more than that, whichever rows are still to come before them. `finish` merges the stretches, what
was kept of earlier runs and the last rows into the shard's file; a shard of one stretch is written once.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recap_fast import atomic
from recap_fast.arrow_core import core
from recap_fast.records import Identity, OutputFile, Row, Shard, ShardReport
from recap_fast.shard_set import public_url
from recap_fast.write.captions import Detokenize, make_batch
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.schema import SCHEMA
from recap_fast.write.stretches import count_statuses, stretch_name

STRETCH_ROWS = 800
"""A crash costs at most 1,000 captions of a shard: these, and those that wait for the writing thread (pipeline.py)."""
STRETCH_SECONDS = 300.0
MADE_WITH_KEY = "recap_fast.made_with"
"""Parquet metadata of stretches and outputs: a list with what may differ within an output, the decoder and versions."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows of earlier runs that need not be done again."""

    files: tuple[Path, ...] = ()
    """Parquet files that have them. Where two have the same index, the row of the later file counts."""
    done: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Their indices, ascending; other rows of the files do not count."""


class ShardWriter:
    """Writes one shard. Not for several threads at once."""

    def __init__(
        self,
        output: OutputFolder,
        shard: Shard,
        version: Identity,
        detokenize: Detokenize,
        kept: Kept | None = None,
        made_with: Mapping[str, Any] | None = None,
    ):
        """`version` is that of the input; `made_with` is written to each file, with that of the files that were kept.

        `kept` are rows of earlier runs.
        """
        self._output = output
        self._shard, self._version = shard, version
        self._detokenize = detokenize
        self._kept = kept or Kept()
        self._made_with = dict(made_with or {})
        self._files: list[Path] = []
        self._early: set[int] = set()
        self.num_in_order = 0
        """How many rows are in order: those with the orders 0 to this number less one."""
        self._unwritten: dict[int, Row] = {}
        self._oldest = 0.0

    def add(self, row: Row) -> int:
        """Takes a finished row; returns how many rows have come into order by it."""
        if len(self._unwritten) >= STRETCH_ROWS:
            self.flush()
        if not self._unwritten:
            self._oldest = time.monotonic()
        self._unwritten[row.order] = row
        self._early.add(row.order)
        before = self.num_in_order
        while self.num_in_order in self._early:
            self._early.remove(self.num_in_order)
            self.num_in_order += 1
        return self.num_in_order - before

    def flush_if_old(self) -> None:
        """Brings rows to disk that have waited for `STRETCH_SECONDS`; call it every now and then."""
        if self._unwritten and time.monotonic() - self._oldest > STRETCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Brings all rows that are there to disk, as a stretch."""
        rows = self._take_unwritten()
        if not rows:
            return
        path = self._output.partial(self._shard.name) / stretch_name(rows[0].sample.index, rows[-1].sample.index)
        self._write(path, [make_batch(rows, self._detokenize)])
        self._files.append(path)

    def finish(self) -> ShardReport:
        """Writes the shard's file, and reports on all its rows, those kept of earlier runs included.

        FileNotFoundError means that another process finished the shard and cleaned up.
        """
        rows = self._take_unwritten()
        last = [make_batch(rows, self._detokenize)] if rows else []
        statuses: Counter[str] = Counter()
        num_tokens = 0

        def counted() -> Iterator[pa.RecordBatch]:
            nonlocal num_tokens
            for batch in merge_rows(self._files, last, STRETCH_ROWS, self._kept):
                statuses.update(count_statuses(batch))
                num_tokens += pc.sum(batch.column("num_tokens")).as_py() or 0
                if self._shard.kind == "folder":
                    files.update(self._versions(batch))
                yield batch

        files: dict[str, str] = {}
        output = self._write(self._output.data(self._shard.name), counted(), self._kept.files)
        report = ShardReport(
            shard=self._shard.name,
            url=public_url(self._shard.url),
            status="complete",
            num_tokens=num_tokens,
            input=self._version,
            output=output,
            files=files,
        )
        return report.with_rows(statuses)

    def _versions(self, batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
        """Path and version of each loose image that has a row."""
        for index, version in zip(batch["index"].to_pylist(), batch["input_version"].to_pylist(), strict=True):
            file = self._shard.files[index]
            assert file is not None, "a pruned file has no row"
            yield file.path, version or ""

    def _take_unwritten(self) -> list[Row]:
        """Hands out the rows that are in no file yet, in order of their index."""
        rows = [self._unwritten[order] for order in sorted(self._unwritten)]
        self._unwritten.clear()
        return rows

    def _write(self, path: Path, batches: Iterable[pa.RecordBatch], kept: Sequence[Path] = ()) -> OutputFile:
        """Writes a Parquet file that is whole or not there."""
        made_with = [self._made_with, *(each for file in kept for each in read_made_with(file))]
        distinct = list({json.dumps(each, sort_keys=True): each for each in made_with}.values())
        metadata = {MADE_WITH_KEY: json.dumps(distinct), "recap_fast.shard": self._shard.name}
        with atomic.replacing(path) as temporary:
            with core.ParquetWriter(
                temporary, SCHEMA, max_row_group_rows=STRETCH_ROWS, key_value_metadata=metadata
            ) as writer:
                for batch in batches:
                    writer.write(batch)
            return OutputFile(atomic.sha256_of(temporary), temporary.stat().st_size)


def read_made_with(path: Path) -> list[Mapping[str, Any]]:
    """What the rows of a Parquet file were made with; one entry for each run that had other versions."""
    metadata = pq.read_metadata(path).metadata or {}
    made_with: list[Mapping[str, Any]] = json.loads(metadata.get(MADE_WITH_KEY.encode(), b"[]"))
    return made_with


def merge_rows(
    files: Sequence[Path], new: Sequence[pa.RecordBatch], batch_rows: int = 1000, kept: Kept | None = None
) -> Iterator[pa.RecordBatch]:
    """Yields the union of the kept rows, the files' rows and the new ones, sorted by index.

    Where an index stands in several, later files win over earlier ones and over kept rows, and the new rows over all.
    Each file must be sorted by index. Of each only the batch at hand is held.
    """
    kept = kept or Kept()
    streams = [
        *(_only(_read(path, batch_rows), kept.done) for path in kept.files),
        *(_read(path, batch_rows) for path in files),
        (batch for batch in new if batch.num_rows),
    ]
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


def _only(batches: Iterable[pa.RecordBatch], indices: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """Of the rows those whose index is among these."""
    for batch in batches:
        rows = batch.filter(pa.array(np.isin(batch["index"].to_numpy(), indices)))
        if rows.num_rows:
            yield rows


def _newest(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Sorts the parts' rows by index; of rows with one index that of the last part stays."""
    table = pa.Table.from_batches(parts).combine_chunks()
    indices = table.column("index").to_numpy()
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    last_of_index = np.append(ordered[1:] != ordered[:-1], True)
    return table.take(order[last_of_index]).combine_chunks().to_batches()[0]
