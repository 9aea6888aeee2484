"""A VARIANT of Parquet, which is values of any type in one binary column, as a value that json can hold.

In goes its struct {metadata, value, typed_value}; out comes the value. The format is that of apache/parquet-format,
VariantEncoding.md and VariantShredding.md. What is none raises ValueError, whatever its bytes are.
"""

import datetime
import itertools
import struct
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

_EPOCH = datetime.datetime(1970, 1, 1)
_NUMBERS = {3: "<b", 4: "<h", 5: "<i", 6: "<q", 7: "<d", 14: "<f"}
_CONSTANTS = {0: None, 1: True, 2: False}
_DECIMALS = {8: 4, 9: 8, 10: 16}
_SIZED = {15: "binary", 16: "string"}
_TIMES: dict[int, tuple[str, Callable[[int], Any]]] = {
    11: ("<i", lambda days: (_EPOCH + datetime.timedelta(days)).date()),
    12: ("<q", lambda micros: (_EPOCH + datetime.timedelta(microseconds=micros)).replace(tzinfo=datetime.UTC)),
    13: ("<q", lambda micros: _EPOCH + datetime.timedelta(microseconds=micros)),
    17: ("<q", lambda micros: (_EPOCH + datetime.timedelta(microseconds=micros)).time()),
    18: ("<q", lambda nanos: f"{_EPOCH + datetime.timedelta(seconds=nanos // 10**9)}.{nanos % 10**9:09d}Z"),
    19: ("<q", lambda nanos: f"{_EPOCH + datetime.timedelta(seconds=nanos // 10**9)}.{nanos % 10**9:09d}"),
}


def read_variant(parts: Mapping[str, Any]) -> Any:
    """The value of a VARIANT; dates, decimals and bytes as Python has them. Raises ValueError."""
    try:
        return _shredded(parts, _names(parts["metadata"]))
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, struct.error) as error:
        raise ValueError(f"a VARIANT that cannot be read: {error}") from error


def _shredded(parts: Mapping[str, Any], names: list[str]) -> Any:
    """A value of which some parts, those of a known type, are columns of their own."""
    content, typed = parts.get("value"), parts.get("typed_value")
    value = None if content is None else _Value(content, names).read(0)
    if typed is None:
        return value
    if isinstance(typed, dict):
        fields = {name: _shredded(part, names) for name, part in typed.items() if _is_there(part)}
        return {**(value or {}), **fields}
    return [_shredded(part, names) for part in typed] if isinstance(typed, list) else typed


def _is_there(part: Mapping[str, Any] | None) -> bool:
    return part is not None and (part.get("value") is not None or part.get("typed_value") is not None)


def _names(metadata: bytes) -> list[str]:
    """The names of objects' fields."""
    if metadata[0] & 15 != 1:
        raise ValueError(f"a VARIANT of version {metadata[0] & 15}")
    width = (metadata[0] >> 6) + 1
    num = int.from_bytes(metadata[1 : 1 + width], "little")
    first = 1 + width * (num + 2)
    places = range(1 + width, first, width)
    ends = [int.from_bytes(metadata[place : place + width], "little") for place in places[: len(metadata)]]
    if first > len(metadata) or ends != sorted(ends):
        raise ValueError("a VARIANT whose names are cut off")
    return [metadata[first + start : first + end].decode() for start, end in itertools.pairwise(ends)]


class _Value:
    def __init__(self, content: bytes, names: list[str]) -> None:
        self._content, self._names = content, names
        self._left = len(content)
        """What is not yet read: parts that lie in one another would never end."""

    def read(self, place: int) -> Any:
        kind, header = self._content[place] & 3, self._content[place] >> 2
        if kind == 0:
            return self._primitive(header, place + 1)
        if kind == 1:
            return self._take(place + 1, header).decode()
        return self._object(header, place + 1) if kind == 2 else self._array(header, place + 1)

    def _primitive(self, kind: int, place: int) -> Any:
        if kind in _CONSTANTS:
            self._take(place, 0)
            return _CONSTANTS[kind]
        if kind in _NUMBERS:
            return self._unpack(_NUMBERS[kind], place)
        if kind in _TIMES:
            form, convert = _TIMES[kind]
            return convert(self._unpack(form, place))
        if kind in _DECIMALS:
            number = int.from_bytes(self._take(place + 1, _DECIMALS[kind]), "little", signed=True)
            return Decimal(number).scaleb(-self._content[place])
        if kind in _SIZED:
            content = self._take(place + 4, self._integer(place, 4))
            return content.decode() if _SIZED[kind] == "string" else content
        if kind == 20:
            return str(uuid.UUID(bytes=self._take(place, 16)))
        raise ValueError(f"a VARIANT with a value of kind {kind}")

    def _object(self, header: int, place: int) -> dict[str, Any]:
        num, place = self._count(header >> 4 & 1, place)
        width, offset_width = (header >> 2 & 3) + 1, (header & 3) + 1
        offsets = place + num * width
        first = offsets + (num + 1) * offset_width
        self._take(place, first - place)
        return {
            self._names[self._integer(place + i * width, width)]: self.read(
                first + self._integer(offsets + i * offset_width, offset_width)
            )
            for i in range(num)
        }

    def _array(self, header: int, place: int) -> list[Any]:
        num, place = self._count(header >> 2 & 1, place)
        width = (header & 3) + 1
        first = place + (num + 1) * width
        self._take(place, first - place)
        return [self.read(first + self._integer(place + i * width, width)) for i in range(num)]

    def _count(self, is_large: int, place: int) -> tuple[int, int]:
        width = 4 if is_large else 1
        return self._integer(place, width), place + width

    def _integer(self, place: int, width: int) -> int:
        return int.from_bytes(self._content[place : place + width], "little")

    def _unpack(self, form: str, place: int) -> Any:
        return struct.unpack(form, self._take(place, struct.calcsize(form)))[0]

    def _take(self, place: int, size: int) -> bytes:
        self._left -= size + 1
        if self._left < 0 or place + size > len(self._content):
            raise ValueError("a VARIANT that is cut off")
        return self._content[place : place + size]
