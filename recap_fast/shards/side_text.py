"""Bytes that people saved as text or as json, in; text and values, out. Whatever the bytes are, nothing here fails.

UTF-8 and, for texts of European languages, UTF-16 are known with and without a byte-order mark, UTF-32 with one; a json
is known in all of them. A byte that is none of them costs
itself: it is written as \\xNN.
"""

import codecs
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FIRST_BYTES = frozenset(mark[:1] for mark, _ in _MARKS)
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f]")
BYTES: Any = object()
"""Stands for bytes among plain values: json cannot hold them."""


@dataclass(frozen=True, slots=True)
class Json:
    """A json that was read."""

    value: Any
    text: str
    """As it came, where that is json by the standard; else the value written anew."""


def read_text(content: bytes | str, what: str, warnings: list[str]) -> str:
    """The text without its byte-order mark; bytes that do not belong into its encoding as \\xNN, with a warning."""
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    encoding = None
    if content[:1] in _FIRST_BYTES:
        encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:2]:
        encoding = _without_mark(content)
    encoding = encoding or "utf-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.upper()
        warnings.append(f"{what} is not {name} at byte {error.start}: such bytes are written as \\xNN")
        text = content.decode(encoding, "backslashreplace")
    return text.removeprefix("\ufeff")


def read_json(content: bytes | str, what: str, warnings: list[str]) -> Json | None:
    """What a json says; NaN and infinities are null. None, with a warning, where it cannot be read."""
    text = _json_text(content, what, warnings) if isinstance(content, bytes) and content else str(content or "")
    text = text.removeprefix("\ufeff")
    if not text.strip():
        warnings.append(f"{what} is empty")
        return None
    try:
        value = _STRICT.decode(text)
    except (ValueError, RecursionError):
        try:
            value = _LENIENT.decode(text)
            return Json(value, write_json(value))
        except (ValueError, RecursionError) as error:
            warnings.append(f"{what} cannot be read: {error}")
            return None
    if not _ESCAPED_HALF.search(text):
        return Json(value, text)
    try:  # parsers that are strict take no escape that is half a surrogate pair
        return Json(value, write_json(value) if _HALF_A_PAIR.search(json.dumps(value, ensure_ascii=False)) else text)
    except RecursionError as error:
        warnings.append(f"{what} cannot be read: {error}")
        return None


def write_json(value: Any) -> str:
    """Any value as json that every parser takes: NaN as null, bytes left out, dates and the like as text."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
    return _HALF_A_PAIR.sub(lambda half: f"\\\\u{ord(half[0]):04x}", text)


def plain(value: Any) -> Any:
    """The value as json knows it. Bytes go from objects, are null in lists, and alone they are BYTES."""
    match value:
        case bytes() | bytearray() | memoryview():
            return BYTES
        case None | str() | bool():
            return value
        case int():
            return value if value.bit_length() < 10_000 else hex(value)  # Python writes no more than 4,300 digits
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            items = ((str(name), plain(item)) for name, item in value.items())
            return {name: item for name, item in items if item is not BYTES}
        case list() | tuple() | set() | frozenset():
            return [None if (item := plain(element)) is BYTES else item for element in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def json_type(value: Any) -> str:
    """What json calls a value of this kind, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a string"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "an array"
        case int() | float():
            return "a number"
    return f"a {type(value).__name__}"


def text_or_bytes(content: bytes) -> str | None:
    """The text, where bytes of an unknown kind are text in UTF-8 or after a byte-order mark; else None."""
    if b"\0" in content[:2] and _without_mark(content):
        return None
    warnings: list[str] = []
    text = read_text(content, "", warnings)
    return None if warnings or _CONTROL.search(text) else text


def _without_mark(content: bytes) -> str | None:
    """UTF-16 of which every second byte is zero and no character a control character."""
    zeros, letters, name = content[1::2], content[::2], "utf-16-le"
    if content[:1] == b"\0":
        zeros, letters, name = letters, zeros, "utf-16-be"
    is_text = len(content) > 2 and len(zeros) == len(letters) == zeros.count(0)
    return name if is_text and not _CONTROL.search(letters.decode("latin-1")) else None


def _json_text(content: bytes, what: str, warnings: list[str]) -> str:
    # a json begins with a letter of ASCII, and a second one that is no zero is none of UTF-16's or UTF-32's
    encoding = "utf-8" if 0 < content[0] < 0x80 and content[1:2] != b"\0" else json.detect_encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        warnings.append(f"{what} is not {name} at byte {error.start}: such bytes are written as \\xNN")
    if not encoding.startswith("utf-8"):
        return content.decode(encoding, "replace")
    # a backslash within a json's text is written as two
    text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    return _HALF_A_PAIR.sub(lambda byte: f"\\\\x{ord(byte[0]) - 0xDC00:02x}", text)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # of thousands of digits
        return digits


_STRICT = json.JSONDecoder(parse_constant=_refuse)
_LENIENT = json.JSONDecoder(parse_constant=lambda _: None, parse_int=_integer, strict=False)
