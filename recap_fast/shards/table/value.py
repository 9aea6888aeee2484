"""A cell of a table, of any type, as a value that json can hold.

In goes pyarrow's scalar; out comes what `to_pylist()` makes of it, but bytes that are text are text, and others are hex
as long as they are short. Nothing that a cell holds can make this fail.
"""

import re
import struct
from contextlib import suppress
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from recap_fast.shards.side_text import read_text, text_or_bytes
from recap_fast.shards.table.file import children, is_bytes, is_text
from recap_fast.shards.table.variant import read_variant

MAX_HEX_BYTES = 64
_MIN_FIXED_TEXT = 20
"""Bytes of a fixed number: a hash of so many is no printable ASCII by chance."""
_PRINTABLE = re.compile(rb"[\t\n\r -~]")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

Look = Literal["image", "text", "bytes", "blob", "interval", "variant", "unknown"]
"""What a column of bytes holds, by its first values: `bytes` are short, such as hashes, a `blob` is anything else. By
the schema: an `interval` of months, days and milliseconds, a `variant` {metadata, value}."""
Cell: TypeAlias = pa.Scalar


def value_of(cell: Cell, look: Look = "unknown") -> Any:
    """The value; bytes where they are too long for hex."""
    try:
        value = cell.as_py()
    except Exception:  # noqa: BLE001 - nanoseconds, the year 10000, unknown zones, children of one name, no UTF-8
        try:
            value = _piecewise(cell)
        except Exception as error:  # noqa: BLE001 - a type that pyarrow itself cannot show
            return f"a {cell.type} that cannot be shown: {error}"
    if look == "variant" and isinstance(value, dict):
        with suppress(ValueError):  # it has another meaning, or is damaged: as any struct
            value = read_variant(value)
    if isinstance(value, bytes) and look == "interval":
        months, days, milliseconds = struct.unpack("<3I", value)
        return f"P{months}M{days}DT{milliseconds / 1000}S"  # as ISO 8601 has it
    if isinstance(value, bytes) and pa.types.is_fixed_size_binary(cell.type):
        seems_text = len(value) >= _MIN_FIXED_TEXT and value.isascii() and not _CONTROL.search(value)
        return value.decode() if seems_text else _hex(value)
    return _texts(value, look)


def text_bytes(cell: Cell) -> bytes | None:
    """A text as it lies in the file, which need not be UTF-8; None where the cell is null or of another type."""
    cell = unwrap(cell)
    if not cell.is_valid or not (is_text(cell.type) or is_bytes(cell.type)):
        return None
    content: bytes = cell.as_buffer().to_pybytes()
    return content


def unwrap(cell: Cell) -> Cell:
    """The cell without what wraps it: dictionaries and extension types."""
    while cell.is_valid and isinstance(cell, pa.DictionaryScalar | pa.ExtensionScalar):
        cell = cell.value
    return cell


def looks_like_text(content: bytes) -> bool:
    """Whether bytes are text, in UTF-8 or in an encoding of single bytes such as Latin-1."""
    if text_or_bytes(content) is not None:
        return True
    return not _CONTROL.search(content) and len(_PRINTABLE.findall(content)) >= 0.75 * len(content)


def num_bytes(array: pa.Array) -> int:
    """How many bytes the values of an array take once each is held for itself."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return num_bytes(array.storage)
    if pa.types.is_dictionary(kind):
        if pa.types.is_nested(kind.value_type) or pa.types.is_primitive(kind.value_type):
            return int(array.nbytes)
        return int(pc.sum(pc.take(pc.binary_length(array.dictionary), array.indices)).as_py() or 0)
    if pa.types.is_map(kind):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return sum(num_bytes(part.slice(first, last - first)) for part in (array.keys, array.items))
    if pa.types.is_struct(kind):
        return sum(num_bytes(child) for child in array.flatten())
    if kind.num_fields:
        return num_bytes(array.flatten())
    return int(array.nbytes)


def _piecewise(cell: Cell) -> Any:
    """The value of a cell in which something is none that Python or UTF-8 can hold: that alone becomes text."""
    cell = unwrap(cell)
    if not cell.is_valid:
        return None
    if isinstance(cell, pa.MapScalar):
        return [tuple(_piecewise(part) for part in pair.values()) for pair in cell.values]
    if isinstance(cell, pa.ListScalar):
        return [_piecewise(each) for each in cell.values]
    if isinstance(cell, pa.StructScalar):
        named: dict[str, Any] = {}
        for place, field in enumerate(children(cell.type)):
            name = field.name
            while name in named:
                name = f".{name}"
            named[name] = _piecewise(cell[place])
        return named
    try:
        return cell.as_py()
    except Exception:  # noqa: BLE001 - as above
        if pa.types.is_timestamp(cell.type):
            return _timestamp(cell)
        content = text_bytes(cell) or text_bytes(cell.cast(pa.string())) or b""
        return content.decode("utf-8", "backslashreplace")


def _timestamp(cell: Cell) -> str:
    """One that Python does not know: in UTC, or as the number that it is."""
    unit, zone = cell.type.unit, "" if cell.type.tz is None else "Z"
    text = str(cell.cast(pa.timestamp(unit)).cast(pa.string()))
    return f"{cell.value} {unit} since 1970" if text.startswith("<") else text + zone


def _texts(value: Any, look: Look) -> Any:
    if isinstance(value, bytes):
        return _text(value, look)
    if isinstance(value, dict):
        return {name: _texts(item, look) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(item, look) for item in value]
    return value


def _text(content: bytes, look: Look) -> str | bytes:
    seems_text = text_or_bytes(content) is not None or (len(content) >= _MIN_FIXED_TEXT and looks_like_text(content))
    if look == "text" or (look != "bytes" and seems_text):
        return read_text(content, "", [])
    return _hex(content)


def _hex(content: bytes) -> str | bytes:
    return content.hex() if len(content) <= MAX_HEX_BYTES else content
