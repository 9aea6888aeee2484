"""The entries of a metadata file, one by one: lines of json, rows of a CSV or a Parquet file.

In goes a file's content, out come its entries as objects, each with a number by which it is found again. What cannot be
read of it is named in `bad` and costs nothing else.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from recap_fast.shards.side_text import read_json, read_text

MAX_LINE_BYTES = 16 << 20
csv.field_size_limit(MAX_LINE_BYTES)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
Entry = Mapping[str, Any]


class JsonLines:
    """metadata.jsonl: an object a line. An entry's number is the offset of its line."""

    def __init__(self, content: bytes) -> None:
        self.bad: list[str] = []
        self._content = _utf8(content)

    def __iter__(self) -> Iterator[tuple[int, Entry]]:
        for number, (offset, line) in enumerate(_lines(self._content), 1):
            entry = _object(line, [])
            if entry is not None:
                yield offset, entry
            elif line.strip():
                self.bad.append(f"line {number}")

    def entry(self, number: int, warnings: list[str]) -> Entry:
        """The object of the line at an offset."""
        return _object(next(_lines(self._content, number))[1], warnings) or {}


class CsvRows:
    """metadata.csv: values are texts, empty ones null. An entry's number is the offset of its first line."""

    def __init__(self, content: bytes) -> None:
        self.bad: list[str] = []
        self._content = _utf8(content)
        self._header, self._start = [], 0
        for offset, header in self._rows(0):
            self._header, self._start = header, offset
            break

    def __iter__(self) -> Iterator[tuple[int, Entry]]:
        rows = self._rows(0)
        next(rows, None)
        for number, (offset, row) in enumerate(rows, 2):
            if len(row) == len(self._header):
                yield offset, self._named(row)
            elif row:
                self.bad.append(f"row {number}")

    def entry(self, number: int, warnings: list[str]) -> Entry:
        """The row that begins at an offset."""
        return self._named(next(self._rows(number))[1])

    def _named(self, row: list[str]) -> Entry:
        return {name: value or None for name, value in zip(self._header, row, strict=True)}

    def _rows(self, start: int) -> Iterator[tuple[int, list[str]]]:
        end = start

        def texts() -> Iterator[str]:
            nonlocal end
            for offset, line in _lines(self._content, start):
                end = offset + len(line)
                yield line.decode("utf-8", "backslashreplace")

        rows = csv.reader(texts())
        while True:
            begin = end
            try:
                yield begin, next(rows)
            except StopIteration:
                return
            except csv.Error:  # of a field that is too long
                yield begin, [""] * (len(self._header) + 1)


class ParquetRows:
    """metadata.parquet: values as they are in the file. An entry's number is that of its row."""

    def __init__(self, content: bytes) -> None:
        import pyarrow.parquet as pq

        self.bad: list[str] = []
        with pq.ParquetFile(io.BytesIO(content)) as file:
            columns = file.schema_arrow.names
        # a dictionary stays one: a value of megabytes may be that of every row
        self._table = pq.read_table(io.BytesIO(content), read_dictionary=columns)

    def __iter__(self) -> Iterator[tuple[int, Entry]]:
        names = [name for name in self._table.column_names if name.endswith(("file_name", "file_names"))]
        for number in range(self._table.num_rows):
            yield number, self._row(number, names)

    def entry(self, number: int, _: list[str]) -> Entry:
        """The row of that number."""
        return self._row(number, self._table.column_names)

    def _row(self, number: int, names: list[str]) -> Entry:
        return {name: _value(self._table.column(name)[number]) for name in names}


def _value(cell: Any) -> Any:
    """A cell as a Python value; as text where Python's types cannot hold it."""
    try:
        return cell.as_py()
    except (ValueError, OverflowError):
        return str(cell)


def _lines(content: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each line, its end included."""
    while start < len(content):
        end = content.find(b"\n", start) + 1 or len(content)
        yield start, content[start:end]
        start = end


def _object(line: bytes, warnings: list[str]) -> Entry | None:
    read = (
        read_json(line, "the line in metadata.jsonl", warnings)
        if line.strip() and len(line) <= MAX_LINE_BYTES
        else None
    )
    return read.value if read is not None and isinstance(read.value, dict) else None


def _utf8(content: bytes) -> bytes:
    """Without a byte-order mark; UTF-16 in UTF-8."""
    return read_text(content, "", []).encode() if content.startswith(_UTF16) else content.removeprefix(b"\xef\xbb\xbf")
