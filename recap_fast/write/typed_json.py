"""JSON files as dataclasses: a file that is damaged, or was written by something else, is an error here.

The fields of such a dataclass are str, int, float, bool, None, Any, literals, dataclasses, and mappings, tuples and
unions of these.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from recap_fast.store.store import Store

T = TypeVar("T")


class OtherFormatError(ValueError):
    """The file is of another version of recap-fast."""


def read_json(store: Store, name: str, form: int, max_bytes: int, *earlier: int) -> Mapping[str, Any]:
    """The fields of a file of at most `max_bytes`, whose "format" is `form` or one of the earlier ones.

    Raises OSError, OtherFormatError, and ValueError for anything else.
    """
    data, _ = store.read(name, max_bytes)
    try:
        content = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict) or content.get("format") not in (form, *earlier):
        found = content.get("format") if isinstance(content, dict) else None
        kind = OtherFormatError if type(found) is int else ValueError
        raise kind(f"it has format {found!r:.60}, but this version reads {form}")
    return content


def typed(kind: type[T], content: object) -> T:
    """The content as an instance of the dataclass; unknown fields are left out.

    Numbers must be finite, whole ones from 0 to 2^63 - 1. Raises ValueError for a field that is missing or has another
    type.
    """
    made: T = _typed(kind, content, "it")
    return made


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _typed(kind: Any, value: object, place: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _one_of(get_args(kind), value, place)
    if (origin is Mapping and isinstance(value, dict)) or (origin is tuple and isinstance(value, list)):
        return _many(get_args(kind), value, place)
    if is_dataclass(kind) and isinstance(value, dict):
        return _record(kind, value, place)
    if kind is Any or (origin is Literal and value in get_args(kind)) or _is_scalar(kind, value):
        return value
    raise ValueError(f"{place} is {value!r:.60}, not {getattr(kind, '__name__', kind)}")


def _record(kind: Any, value: Mapping[str, object], place: str) -> Any:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.init]
    if missing := [name for name in names if name not in value]:
        raise ValueError(f"{place} has no {missing[0]}")
    return kind(**{name: _typed(hints[name], value[name], f"{place}.{name}") for name in names})


def _one_of(kinds: tuple[Any, ...], value: object, place: str) -> Any:
    for kind in kinds[:-1]:
        try:
            return _typed(kind, value, place)
        except ValueError:
            continue
    return _typed(kinds[-1], value, place)


def _many(kinds: tuple[Any, ...], value: dict[str, object] | list[object], place: str) -> Any:
    """The items of a mapping or a tuple. Texts are checked all at once: a record may have the names of 1,000 files."""
    if isinstance(value, dict):
        if kinds[1] is str and all(type(each) is str for each in value.values()):
            return value
        return {key: _typed(kinds[1], each, f"{place}.{key}") for key, each in value.items()}
    if kinds[0] is str and all(type(each) is str for each in value):
        return tuple(value)
    return tuple(_typed(kinds[0], each, f"{place}[{i}]") for i, each in enumerate(value))


def _is_scalar(kind: Any, value: object) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value < 2**63
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    return kind in (str, bool, NoneType) and type(value) is kind
