"""A Parquet file that is read column by column, in batches that are bounded in bytes, and whose damage is a column's.

In go an address and a column by its place, so that a name may be empty, have dots or be there twice; out come its
cells, row by row. pyarrow raises errors of any type on a hostile file: none but ShardError leaves this module.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recap_fast.addresses import is_remote
from recap_fast.errors import RecapError, ShardError
from recap_fast.shards.local import open_regular
from recap_fast.shards.remote.access import RemoteFile
from recap_fast.text import message_of

BATCH_BYTES = 32 << 20
BATCH_ROWS = 128
BUFFER_BYTES = 1 << 20
_MAX_AMPLIFIED_BYTES = 256 << 20
_TEXT = "BYTE_ARRAY"


@dataclass(frozen=True, slots=True)
class Column:
    """A column, or some of the children of one."""

    place: int
    name: str
    kind: pa.DataType
    leaves: tuple[int, ...]
    """The Parquet columns that it is made of."""


class TableFile:
    """An open Parquet file. Raises ShardError where it is none."""

    def __init__(self, url: str) -> None:
        with shard_errors():
            self._file = _open(url)
            try:
                self._parse()
            except BaseException:
                self._file.close()
                raise

    def close(self) -> None:
        """Closes the file."""
        self._table.close(force=True)

    def group_rows(self, group: int) -> int:
        """How many rows a row group has by the footer."""
        return max(0, int(self._metadata.row_group(group).num_rows))

    def num_entries(self, leaf: int, group: int) -> tuple[int, int] | None:
        """How many entries a Parquet column has in a row group and how many of them are null; None: it does not say."""
        chunk = self._chunk(leaf, group)
        kinds = {self._metadata.schema.column(leaf).physical_type, None if chunk is None else chunk.physical_type}
        # pyarrow ends the process where statistics are of another type, or of another size than their type
        statistics = chunk.statistics if kinds == {_TEXT} else None
        if statistics is None or not statistics.has_null_count or not 0 <= statistics.null_count <= chunk.num_values:
            return None
        return int(chunk.num_values), int(statistics.null_count)

    def num_values(self, leaf: int, group: int) -> int | None:
        """How many entries a Parquet column has in a row group, nulls among them; None: it does not say."""
        chunk = self._chunk(leaf, group)
        return None if chunk is None else int(chunk.num_values)

    def is_interval(self, column: Column) -> bool:
        """Whether it is the INTERVAL of the Parquet format: 12 bytes, for which pyarrow has no type."""
        described = self._metadata.schema.column(column.leaves[0])
        return len(column.leaves) == 1 and described.converted_type == "INTERVAL" and described.length == 12

    def read(self, column: Column, group: int) -> "Cursor":
        """The cells of a column in a row group."""
        return Cursor(self, column, group)

    def arrays(self, column: Column, group: int) -> Iterator[pa.Array]:
        """The cells of a column in a row group, in batches. Raises what pyarrow raises."""
        num_rows, reader = self._batch_rows(column, group), self._table.reader
        leaves = list(column.leaves)
        batches = reader.iter_batches(num_rows, row_groups=[group], column_indices=leaves, use_threads=False)
        while True:
            reader.set_batch_size(num_rows)  # of the file: columns take turns
            batch = next(batches, None)
            if batch is None:
                return
            yield batch.column(0)

    def _parse(self) -> None:
        self._table = self._open_table(None)
        self._metadata = self._table.metadata
        amplified = [path for leaf in range(self._metadata.num_columns) if (path := self._amplified(leaf)) is not None]
        if amplified:
            self._table = self._open_table(amplified)
        self.columns = self._columns()
        self.num_groups: int = self._metadata.num_row_groups
        """Of the footer, as are the rows of each."""
        self.num_rows: int = self._metadata.num_rows
        """By the footer; that of its groups may be another."""

    def _open_table(self, read_dictionary: list[str] | None) -> pq.ParquetFile:
        return pq.ParquetFile(
            self._file,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            read_dictionary=read_dictionary,
            page_checksum_verification=True,
        )

    def _columns(self) -> tuple[Column, ...]:
        columns, first = [], 0
        for place, field in enumerate(self._table.schema_arrow):
            end = first + num_leaves(field.type)
            columns.append(Column(place, field.name, field.type, tuple(range(first, end))))
            first = end
        if first != self._metadata.num_columns:
            raise ShardError(f"has a schema with {self._metadata.num_columns} columns, of which {first} can be named")
        return tuple(columns)

    def _amplified(self, leaf: int) -> str | None:
        """The path of a column whose lists repeat a few long values: only these must be held, not each repetition."""
        described = self._metadata.schema.column(leaf)
        if not described.max_repetition_level or described.physical_type != _TEXT:
            return None
        chunks = (self._chunk(leaf, group) for group in range(self._metadata.num_row_groups))
        sizes = (chunk.num_values * chunk.total_uncompressed_size for chunk in chunks if chunk is not None)
        return str(described.path) if any(size > _MAX_AMPLIFIED_BYTES for size in sizes) else None

    def _chunk(self, leaf: int, group: int) -> Any:
        """The footer on a column in a row group; None where it is damaged."""
        try:
            # pyarrow's metadata ends the process then, and its reader, which reads no row here, raises
            for _ in self._table.reader.iter_batches(0, row_groups=[group], column_indices=[leaf], use_threads=False):
                pass
            return self._metadata.row_group(group).column(leaf)
        except Exception:  # noqa: BLE001 - pyarrow raises what it likes, and again where the column is read
            return None

    def _batch_rows(self, column: Column, group: int) -> int:
        """As many as fit into BATCH_BYTES. A text may be as long as its whole chunk, again and again: a dictionary."""
        num_rows, row_bytes = max(1, self.group_rows(group)), 1.0
        for leaf in column.leaves:
            described, chunk = self._metadata.schema.column(leaf), self._chunk(leaf, group)
            if chunk is None:
                return 1
            if described.physical_type == _TEXT and not (described.max_repetition_level or _is_shared(column.kind)):
                row_bytes += chunk.total_uncompressed_size
            else:
                width = max(8, described.length or 0)
                row_bytes += max(chunk.total_uncompressed_size, chunk.num_values * width) / num_rows
        return int(min(BATCH_ROWS, max(1, BATCH_BYTES // max(1.0, row_bytes))))


class Cursor:
    """The cells of a column in a row group, from the first row to the last."""

    def __init__(self, table: TableFile, column: Column, group: int) -> None:
        self.damage: str | None = None
        """Why no further cell can be read; None where there is just none."""
        self.array: pa.Array = pa.nulls(0)
        """The cells of the current batch."""
        self._first = 0
        self._arrays = table.arrays(column, group)

    def move_to(self, row: int) -> int | None:
        """The place of a row in `array`; None where there is no such row. Rows never go back."""
        while row >= self._first + len(self.array):
            try:
                array = next(self._arrays, None)
            except Exception as error:  # noqa: BLE001 - pyarrow raises what it likes
                self.damage, array = message_of(error), None
            if array is None:
                return None
            self._first += len(self.array)
            self.array = array
        return row - self._first


@contextmanager
def shard_errors() -> Iterator[None]:
    """What pyarrow raises on a hostile file, of any type, as ShardError."""
    try:
        yield
    except RecapError:
        raise
    except UnicodeDecodeError as error:
        raise ShardError(f"has a column whose name is not UTF-8: {error}") from error
    except Exception as error:
        raise ShardError(f"is not a readable Parquet file: {message_of(error)}") from error


def storage(kind: pa.DataType) -> pa.DataType:
    """The type without what wraps it: dictionaries and extension types."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def children(kind: pa.DataType) -> Sequence[pa.Field]:
    """The fields that a nested type is made of; none of any other."""
    if pa.types.is_map(kind):
        return [kind.key_field, kind.item_field]
    return [kind.field(place) for place in range(kind.num_fields)]


def is_text(kind: pa.DataType) -> bool:
    """Whether it is text, marked as such."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether it is bytes, of a fixed number or not."""
    fixed = pa.types.is_fixed_size_binary(kind)
    return bool(fixed or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def num_leaves(kind: pa.DataType) -> int:
    """How many Parquet columns a type is made of."""
    kind = storage(kind)
    return sum(num_leaves(field.type) for field in children(kind)) if kind.num_fields else 1


def _is_shared(kind: pa.DataType) -> bool:
    """Whether equal values are held once."""
    if isinstance(kind, pa.BaseExtensionType):
        return _is_shared(kind.storage_type)
    return bool(pa.types.is_dictionary(kind))


def _open(url: str) -> Any:
    if is_remote(url):
        return RemoteFile(url)
    open_regular(url).close()  # a pipe would be waited for
    return pa.OSFile(url, "rb")
