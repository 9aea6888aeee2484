"""Sets fields of a json object without a change to what else it says: the bytes around them stay as they are."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from recap_fast.shards.side_text import read_json, read_text, write_json

_SPACE = " \t\n\r"
_DECODER = json.JSONDecoder()


def set_fields(content: bytes, fields: Mapping[str, Any]) -> bytes:
    """A json object in UTF-8 with these fields: in their places where it has them with other values, else at its end.

    A json that Python cannot read as it is, such as one in UTF-16, is written anew. What is no object goes into a field
    'json' of one, as its value if it can be read, else as a text.
    """
    try:
        text = content.decode()
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return _rewritten(content, fields)
    if not isinstance(value, dict):
        return _rewritten(content, fields)
    there = {name for name in fields if name in value}
    if there:
        changed = {name for name in there if value[name] != fields[name] or type(value[name]) is not type(fields[name])}
        text = _replaced(text, {name: fields[name] for name in changed}) if changed else text
    new = ", ".join(f"{json.dumps(name)}: {_dump(fields[name])}" for name in fields if name not in there)
    if not new:
        return text.encode()
    end = text.rindex("}")
    body = text[:end].rstrip(_SPACE)
    return f"{body}{', ' if value else ''}{new}{text[len(body) : end]}{text[end:]}".encode()


def _rewritten(content: bytes, fields: Mapping[str, Any]) -> bytes:
    read = read_json(content, "", [])
    if read is not None and isinstance(read.value, dict):
        value = read.value
    elif content.strip():
        value = {"json": read.value if read is not None else read_text(content, "", [])}
    else:
        value = {}
    return write_json({**value, **fields}).encode("utf-8", "backslashreplace")


def _replaced(text: str, fields: Mapping[str, Any]) -> str:
    """With other values in the places of some fields."""
    pieces, position = [], 0
    for name, start, end in _spans(text):
        if name in fields:
            pieces += [text[position:start], _dump(fields[name])]
            position = end
    return "".join([*pieces, text[position:]])


def _spans(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of each value of an object that can be read."""
    position = _skip(text, text.index("{") + 1)
    while text[position] != "}":
        name, position = _DECODER.raw_decode(text, position)
        start = _skip(text, _skip(text, position) + 1)
        _, end = _DECODER.raw_decode(text, start)
        yield name, start, end
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    while text[position] in _SPACE:
        position += 1
    return position


def _dump(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, float) else write_json(value)
