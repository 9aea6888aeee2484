"""The rows of a row group: their images, and all that came with these.

In go an open file and what its columns hold; out come rows one by one. What came with an image never decides about it:
a column that cannot be read costs its values, with a warning.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from recap_fast.records import READ_AGAIN
from recap_fast.shards.side_text import read_text, write_json
from recap_fast.shards.table.file import Column, Cursor, TableFile, children, is_bytes, is_text, storage
from recap_fast.shards.table.images import ImageCell, ImageColumn, images_in, step_into
from recap_fast.shards.table.layout import Layout
from recap_fast.shards.table.value import Cell, Look, num_bytes, text_bytes, value_of
from recap_fast.text import MAX_TEXT_BYTES, message_of

T = TypeVar("T")


class ImageRows:
    """The images of a row group."""

    def __init__(self, table: TableFile, images: Sequence[ImageColumn], group: int, *, takes_all: bool) -> None:
        self.damage: str | None = None
        """Why no further row can be read; None where there is just none."""
        self._takes_all = takes_all
        self._columns = [_ImageCells(table, image, group) for image in images]

    def at(self, row: int) -> list[ImageCell] | None:
        """The images of a row, or the first of them, or one that is null where it has none; None after the last row."""
        there, null = [], None
        for column in self._columns:
            cells = column.at(row)
            if cells is None:
                self.damage = column.damage
                return None
            there += [cell for cell in cells if cell.content is not None]
            if there and not self._takes_all:
                return there[:1]
            null = null or next(iter(cells), None)
        return there or [null or ImageCell(self._columns[0].name, None, "")]


class _ImageCells:
    def __init__(self, table: TableFile, image: ImageColumn, group: int) -> None:
        self.name = image.column.name
        self.damage: str | None = None
        self._table, self._image, self._group = table, image, group
        self._cursor: Cursor | None = None
        self._batch: pa.Array | None = None
        self._images: pa.Array = pa.nulls(0)

    def at(self, row: int) -> list[ImageCell] | None:
        self._cursor = cursor = self._cursor or self._table.read(self._image.column, self._group)
        place = cursor.move_to(row)
        if place is None:
            self.damage = cursor.damage
            return None
        try:
            if cursor.array is not self._batch:
                self._batch, self._images = cursor.array, step_into(cursor.array, self._image.depth)
            return images_in(self._images, place, self.name)
        except Exception as error:  # noqa: BLE001 - of pyarrow, of any type
            self.damage = message_of(error)
            return None


@dataclass(slots=True)
class Side:
    """What came with an image, as a `RawSample` has it."""

    path: str | None
    key: str | None
    caption: bytes | str | None
    json: bytes | None
    record: dict[str, Any] | None
    fields: dict[str, Any]
    members: dict[str, Any]
    warnings: list[str]


class SideRows:
    """All columns of a row group but those with images."""

    def __init__(self, table: TableFile, layout: Layout, group: int) -> None:
        self.damage: str | None = None
        """A sentence on a column that cannot be read to its end."""

        def cells(column: Column) -> _SideCells:
            return _SideCells(table, column, group, self._room, layout.looks.get(column.place, "unknown"))

        named = (layout.path, layout.key, layout.caption, layout.json)
        self._room = _Room(len(named) + len(layout.fields) + len(layout.members))
        self._named = [None if column is None else cells(column) for column in named]
        self._fields = [cells(column) for column in layout.fields]
        self._members = [cells(column) for column in layout.members]

    def at(self, row: int) -> Side:
        """What came with the images of a row. Rows never go back."""
        self._room.reset()
        warnings: list[str] = []
        lost: list[str] = []

        def read(cells: _SideCells | None, *, as_bytes: bool = False) -> Any:
            if cells is None:
                return None
            try:
                return cells.content(row, warnings) if as_bytes else cells.value(row, warnings)
            except _LostCellError as error:
                self.damage = self.damage or f"{error} from row {row:,}"
                lost.append(f"{error} {READ_AGAIN}")
                return None

        path, key, caption, json = self._named
        text, content = read(caption, as_bytes=True), read(json, as_bytes=True)
        return Side(
            path=_as_text(read(path)),
            key=_as_text(read(key)),
            caption=text if isinstance(text, bytes) else _as_text(text),
            json=content.encode("utf-8", "backslashreplace") if isinstance(content, str) else _only(content, bytes),
            record=_only(content, dict),
            fields=_by_name((cells.name, read(cells)) for cells in self._fields),
            members=_by_name((cells.name, read(cells)) for cells in self._members),
            warnings=[*warnings, *lost],
        )


class _LostCellError(Exception):
    pass


class _SideCells:
    def __init__(self, table: TableFile, column: Column, group: int, room: "_Room", look: Look) -> None:
        self.name, self._room = column.name, room
        kind = storage(column.kind)
        self._look, self._is_text = look, is_text(kind) or (is_bytes(kind) and look == "text")
        self._has_shared = _has_shared(column.kind)
        self._cursor = table.read(column, group)
        self._batch: pa.Array | None = None
        self._may_be_long = False

    def value(self, row: int, warnings: list[str]) -> Any:
        """The value of a row; text with a warning where it is not UTF-8. Raises _LostCellError."""
        content = self.content(row, warnings)
        if content is not None and self._is_text:
            return read_text(content, f"the column {self.name!r}", warnings)
        return content

    def content(self, row: int, warnings: list[str]) -> Any:
        """Text as the bytes that it has in the file, or any other value. Raises _LostCellError."""
        place = self._cursor.move_to(row)
        if place is None:
            why = f"cannot be read: {self._cursor.damage}" if self._cursor.damage else "has fewer rows than images"
            raise _LostCellError(f"the column {self.name!r} {why}")
        try:
            cell = self._cell(self._cursor.array, place, warnings)
            if cell is None:
                return None
            return text_bytes(cell) if self._is_text else value_of(cell, self._look)
        except Exception as error:
            raise _LostCellError(f"the column {self.name!r} cannot be read: {message_of(error)}") from error

    def _cell(self, array: pa.Array, place: int, warnings: list[str]) -> Cell | None:
        """None, with a warning, where it is too long."""
        if array is not self._batch:
            self._batch, self._may_be_long = array, self._has_shared or array.nbytes > self._room.share
        if self._may_be_long and not self._room.takes(size := num_bytes(array.slice(place, 1))):
            warnings.append(f"the column {self.name!r} has {size:,} bytes here and is not read")
            return None
        return array[place]


class _Room:
    """For all that came with an image, MAX_TEXT_BYTES; what is shorter than its share of them is not counted."""

    def __init__(self, num_columns: int) -> None:
        self.share = MAX_TEXT_BYTES // num_columns
        self._left = MAX_TEXT_BYTES

    def reset(self) -> None:
        """For the next row."""
        self._left = MAX_TEXT_BYTES

    def takes(self, size: int) -> bool:
        """Whether there is room for so many bytes; then there is less."""
        if size > self._left:
            return False
        self._left -= size
        return True


def _has_shared(kind: pa.DataType) -> bool:
    """Whether there are dictionaries in a nested type."""
    return any(pa.types.is_dictionary(child.type) or _has_shared(child.type) for child in children(storage(kind)))


def _by_name(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Of columns of one name, the second gets a dot before it."""
    named: dict[str, Any] = {}
    for name, value in values:
        while name in named:
            name = f".{name}"
        named[name] = value
    return named


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return None
    return write_json(value) if isinstance(value, list | dict) else str(value)


def _only(value: Any, kind: type[T]) -> T | None:
    return value if isinstance(value, kind) else None
