"""Tables that people and programs write (JSON, TOML), read into dataclasses: each field is checked by its annotation.

A dataclass is the whole description of a table: names, types, defaults, and ranges by `Annotated[int, Range(1, 9)]`.
What does not fit is a ConfigError that names file, field, what was given and what it must be.
"""

import difflib
import math
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from recap_fast.errors import ConfigError

T = TypeVar("T")
MAX_SHOWN = 200
NUMBERS = {int: "an integer", float: "a number"}
ITEMS = {str: "strings", int: "integers", float: "numbers"}


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a field takes, both ends among them unless `above`."""

    low: float
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is too low."""

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.above:
            return f" above {self.low:g}" + ("" if self.high == math.inf else f" and up to {self.high:g}")
        return f" of at least {self.low}" if self.high == math.inf else f" from {self.low} to {self.high}"


Count = Annotated[int, Range(1)]


@dataclass(frozen=True, slots=True)
class Source:
    """The file that a table is from."""

    path: Path
    advice: str = ""
    """What to do, added to every refusal."""
    passes_unknown: bool = False
    """Keys that no field has are passed over, as in a config.json, which has many of other people's."""

    def refuse(self, reason: str) -> ConfigError:
        """The error to raise."""
        return ConfigError(f"{self.path}{reason}.{' ' * bool(self.advice)}{self.advice}")

    def refuse_value(self, key: str, wanted: str, value: Any) -> ConfigError:
        """The error to raise for a value that is not what its field must be."""
        return self.refuse(f": '{key}' must be {wanted}, not {shown(value)}")


def read_table(source: Source, kind: type[T], content: Any, table: str = "") -> T:
    """A dataclass of a table by the name `table`, or of a whole file. What is left out has its default.

    Raises ConfigError for a key that is unknown or missing, and for a value of another type or out of its range.
    """
    if not isinstance(content, Mapping):
        raise source.refuse_value(table, "a table", content) if table else source.refuse(" holds no table")
    known = get_type_hints(kind, include_extras=True)
    prefix = f"{table}." if table else ""
    for key in content:
        if key not in known and not source.passes_unknown:
            name = shown(f"{prefix}{key}")
            raise source.refuse(f" has an unknown key {name}{hint(key, known)}. Known keys: {', '.join(known)}")
    for field in fields(kind):  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING and field.name not in content:
            raise source.refuse(f": '{prefix}{field.name}' is missing")
    given = {key: value for key, value in content.items() if key in known}
    return kind(**{key: read_value(source, known[key], prefix + key, value) for key, value in given.items()})


def read_value(source: Source, annotation: Any, key: str, value: Any) -> Any:
    """A value as its annotation has it. Raises ConfigError with what it must be."""
    kind, types = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return _read_number(source, types[0], key, value, types[1])
    if is_dataclass(annotation):
        return read_table(source, annotation, value, key)  # type: ignore[arg-type]
    if kind in (Union, UnionType):
        return None if value is None and NoneType in types else _read_union(source, types, key, value)
    if kind is tuple:
        return _read_list(source, types, key, value)
    if kind is dict:
        if not isinstance(value, Mapping):
            raise source.refuse_value(key, "a table", value)
        return {name: read_value(source, types[1], f"{key}.{name}", each) for name, each in value.items()}
    if annotation in NUMBERS:
        return _read_number(source, annotation, key, value, Range(-math.inf))
    if annotation is str:
        return _read_string(source, key, value)
    return value if annotation is Any else _read_choice(source, types or (False, True), key, value)


def hint(word: str, known: Iterable[str]) -> str:
    """' (did you mean '...'?)' where a known word is close, else nothing."""
    close = difflib.get_close_matches(word[:80], known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def shown(value: Any) -> str:
    """A value for people, shortened; it may be nested deeper, or have more digits, than `repr` takes."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlist, short.maxdict = 3, 80, 80, 8, 6
    try:
        text = short.repr(value)
        return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    except ValueError:
        return f"a number of {value.bit_length()} bits"


def _read_union(source: Source, types: tuple[Any, ...], key: str, value: Any) -> Any:
    """A value of the one type besides None, or of a list or a table."""
    kinds = [each for each in types if each is not NoneType]
    if len(kinds) == 1:
        return read_value(source, kinds[0], key, value)
    by_origin = {get_origin(each): each for each in kinds}
    if not isinstance(value, list | Mapping):
        raise source.refuse_value(key, f"a list of {ITEMS[get_args(by_origin[tuple])[0]]} or a table", value)
    return read_value(source, by_origin[tuple if isinstance(value, list) else dict], key, value)


def _read_number(source: Source, kind: type, key: str, value: Any, among: Range) -> Any:
    is_number = type(value) is int or (kind is float and type(value) is float and math.isfinite(value))
    if not is_number or value not in among:
        limits = "" if among.low == -math.inf else str(among)
        raise source.refuse_value(key, NUMBERS[kind] + limits, value)
    try:
        return kind(value)
    except OverflowError:
        raise source.refuse_value(key, "a number that fits 64 bits", value) from None


def _read_list(source: Source, types: tuple[Any, ...], key: str, value: Any) -> tuple[Any, ...]:
    item, is_any_length = types[0], types[-1] is Ellipsis
    plain = get_args(item)[0] if get_origin(item) is Annotated else item
    if not isinstance(value, list) or not (is_any_length or len(value) == len(types)):
        wanted = f"a list of {'' if is_any_length else f'{len(types)} '}{ITEMS[plain]}"
        raise source.refuse_value(key, wanted, value)
    try:
        return tuple(read_value(source, item, key, each) for each in value)
    except ConfigError as error:
        limits = str(get_args(item)[1]) if plain is not item else ""
        raise source.refuse_value(key, f"a list of {ITEMS[plain]}{limits}", value) from error


def _read_choice(source: Source, among: tuple[Any, ...], key: str, value: Any) -> Any:
    """One of the values of a Literal, or true or false."""
    if type(value) is not type(among[0]) or value not in among:
        wanted = "true or false" if among[0] is False else f"one of {', '.join(among)}"
        raise source.refuse_value(key, wanted, value)
    return value


def _read_string(source: Source, key: str, value: Any) -> str:
    if type(value) is not str:
        raise source.refuse_value(key, "a string", value)
    if not value:
        raise source.refuse(f": '{key}' is empty")
    if not _is_text(value):
        raise source.refuse_value(key, "text without halves of surrogate pairs", value)
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
