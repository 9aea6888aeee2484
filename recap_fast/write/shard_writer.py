"""Finished samples of one shard in, in any order; one Parquet file with its rows in input order out.

After `STRETCH_ROWS`, `STRETCH_BYTES` or `STRETCH_SECONDS`, rows go to disk as a stretch, a small Parquet file of their
own, even if rows before them are still to come. So a crash costs no more than that. `finish` merges the stretches, the
rows kept from earlier runs and the last rows into the shard's file. A shard of one stretch is written once.
"""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from recap_fast.arrow_core import core
from recap_fast.atomic import sha256_of
from recap_fast.records import Identity, OutputFile, Row, Shard, ShardReport
from recap_fast.write.caption_lists import count_tokens
from recap_fast.write.captions import Detokenize, make_batches
from recap_fast.write.flags import RowFlags
from recap_fast.write.merge import MADE_WITH_KEY, merge_rows, read_made_with
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.repeats import COLUMNS, add_shard_flags, find_repeats
from recap_fast.write.schema import SCHEMA
from recap_fast.write.stretches import SHARD_KEY, Kept, announce_output, count_flags, count_statuses, stretch_name

STRETCH_ROWS = 800
"""A crash costs at most 1,000 captions of a shard: these, and those waiting for the writing thread (pipeline.py)."""
STRETCH_SECONDS = 300.0
STRETCH_BYTES = 64 << 20
"""Most memory that the texts of a shard's unwritten rows may take."""


class ShardWriter:
    """Writes one shard. Not for several threads at once."""

    def __init__(
        self,
        output: OutputFolder,
        shard: Shard,
        version: Identity,
        detokenize: Detokenize,
        *,
        kept: Kept | None = None,
        made_with: Mapping[str, Any] | None = None,
        check_output: Callable[[], None] = lambda: None,
        prompt: str = "",
    ):
        """`version` is the input's, `kept` are rows of earlier runs.

        `made_with` is what makes the rows that are added; it is written to each file with some of them, together with
        that of the kept files. `check_output` is called before each file is written; it raises if the output folder is
        gone. `prompt` is the question, for the rows' flags.
        """
        self._output = output
        self._shard, self._version = shard, version
        self._detokenize, self._check_output = detokenize, check_output
        self._kept, self._made_with = kept or Kept(), dict(made_with or {})
        self._flags = RowFlags(prompt)
        self._files: list[Path] = []
        self._open = ExitStack()
        self._open.callback(self._kept.close)
        self._early: dict[int, int] = {}
        self._has_added = False
        self.num_in_order = 0
        """How many rows are in order: all with a `Row.order` below this number are there."""
        self._unwritten: dict[int, Row] = {}
        self._unwritten_bytes = 0
        self._oldest = 0.0

    def add(self, row: Row) -> tuple[int, int]:
        """Takes a finished row; returns how many rows have come into order with it, and their `text_bytes`."""
        self._early[row.order], self._has_added = row.text_bytes, True
        if len(self._unwritten) >= STRETCH_ROWS or self._unwritten_bytes >= STRETCH_BYTES:
            self.flush()
        if not self._unwritten:
            self._oldest = time.monotonic()
        self._unwritten[row.order] = row
        self._unwritten_bytes += row.text_bytes
        before, num_bytes = self.num_in_order, 0
        while self.num_in_order in self._early:
            num_bytes += self._early.pop(self.num_in_order)
            self.num_in_order += 1
        return self.num_in_order - before, num_bytes

    def close(self) -> None:
        """Gives up the local files; nothing can be written any more."""
        self._open.close()

    def give_up(self) -> tuple[int, int]:
        """Drops all rows; returns how many of them have not come into order, and their `text_bytes`."""
        self.close()
        waiting = len(self._early), sum(self._early.values())
        self._early.clear()
        self._take_unwritten()
        return waiting

    def flush_if_old(self) -> None:
        """Writes rows that have waited for `STRETCH_SECONDS` to disk; call it every now and then."""
        if self._unwritten and time.monotonic() - self._oldest > STRETCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes all rows that are there to disk, as a stretch."""
        rows = self._take_unwritten()
        if not rows:
            return
        folder = self._output.partial(self._shard.name)
        first, last = rows[0].sample.index, rows[-1].sample.index
        draft, file = self._open.enter_context(self._written(f"{folder}/stretch", self._batches(rows)))
        name = f"{folder}/{stretch_name(first, last, file.sha256)}"
        self._files.append(self._output.store.publish(draft, name))

    def finish(self) -> ShardReport:
        """Writes the shard's file, and reports on all its rows, including those kept from earlier runs.

        FileNotFoundError means that another process finished the shard and cleaned up. Raises ShardError if rows of
        earlier runs cannot be read.
        """
        last = list(self._batches(self._take_unwritten()))
        statuses: Counter[str] = Counter()
        flags: Counter[str] = Counter()
        num_tokens = 0

        def counted() -> Iterator[pa.RecordBatch]:
            nonlocal num_tokens
            repeats = find_repeats(self._merged([batch.select(COLUMNS) for batch in last], COLUMNS))
            for batch in add_shard_flags(self._merged(last), repeats):
                statuses.update(count_statuses(batch))
                flags.update(count_flags(batch))
                num_tokens += count_tokens(batch)
                if self._shard.kind == "folder":
                    files.update(self._versions(batch))
                yield batch

        files: dict[str, str] = {}
        name = self._output.data(self._shard.name)
        with self._open, self._written(name, counted(), self._kept) as (draft, output):
            announce_output(self._output, self._shard.name, output.sha256)
            self._output.store.publish(draft, name)
        report = ShardReport(
            shard=self._shard.name,
            status="complete",
            num_tokens=num_tokens,
            input=self._version,
            output=output,
            files=files,
        )
        return report.with_rows(statuses, flags)

    def _batches(self, rows: Sequence[Row]) -> Iterator[pa.RecordBatch]:
        return make_batches(rows, self._detokenize, flags=self._flags)

    def _merged(self, last: Sequence[pa.RecordBatch], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows of the shard in order; `last` are those that are in no file yet, with the same columns."""
        return merge_rows(self._files, last, STRETCH_ROWS, kept=self._kept, columns=columns)

    def _versions(self, batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
        """The path and the version of each loose image that has a row."""
        for index, version in zip(batch["index"].to_pylist(), batch["input_version"].to_pylist(), strict=True):
            file = self._shard.files[index]
            assert file is not None, "a pruned file has no row"
            yield file.path, version or ""

    def _take_unwritten(self) -> list[Row]:
        """Takes the rows that are in no file yet, in the order of their indices."""
        rows = [self._unwritten[order] for order in sorted(self._unwritten)]
        self._unwritten.clear()
        self._unwritten_bytes = 0
        return rows

    @contextlib.contextmanager
    def _written(
        self, name: str, batches: Iterable[pa.RecordBatch], kept: Kept | None = None
    ) -> Iterator[tuple[Path, OutputFile]]:
        """Writes a whole Parquet file as the draft of one, for the caller to publish."""
        self._check_output()
        made_with = [each for file in (kept or Kept()).files for each in read_made_with(file)]
        if self._has_added:
            made_with.insert(0, self._made_with)
        distinct = list({json.dumps(each, sort_keys=True): each for each in made_with}.values())
        metadata = {MADE_WITH_KEY: json.dumps(distinct), SHARD_KEY: self._shard.name}
        with self._output.store.draft(name) as draft:
            with core.ParquetWriter(
                draft, SCHEMA, max_row_group_rows=STRETCH_ROWS, key_value_metadata=metadata
            ) as writer:
                for batch in batches:
                    writer.write(batch)
            yield draft, OutputFile(sha256_of(draft), draft.stat().st_size)
