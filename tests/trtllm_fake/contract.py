"""The contract table (tests/data/trtllm_contract.json) as signatures, and as classes that take nothing else.

A call binds its arguments against what was recorded: an unknown keyword, a missing argument or a value of another type
raises TypeError, as nanobind does (a numpy integer is no int here). An attribute that was not recorded raises
AttributeError, to read and to write. Models (pydantic in the library) raise ValidationError for unknown fields, also
where the library drops them without a word.
"""

import copy
import enum
import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent.parent / "data" / "trtllm_contract.json"
EMPTY = inspect.Parameter.empty
SIMPLE: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "str": (str,),
    "path": (str, os.PathLike),
    "timedelta": (timedelta,),
}


class ValidationError(ValueError):
    """Stands for pydantic's, which is a ValueError too."""


class Contract:
    """The table. `version` leaves out what that version has no longer."""

    def __init__(self, version: str | None = None, table: Mapping[str, Any] | None = None):
        table = table or json.loads(TABLE.read_text(encoding="utf-8"))
        self.version: str = version or table["version"]
        gone = is_without_engines(self.version)
        entries: dict[str, dict[str, Any]] = table["symbols"]
        self.entries = {name: e for name, e in entries.items() if not (gone and "removed_in" in e)}

    def resolve(self, symbol: str) -> str:
        """The symbol itself, or what it is another name of."""
        return self.entries[symbol].get("of", symbol)

    def entry(self, symbol: str) -> dict[str, Any]:
        """Raises KeyError for what is not in the table."""
        return self.entries[self.resolve(symbol)]

    def modules(self) -> set[str]:
        """All packages and modules that hold symbols of the table."""
        names = [n.rpartition(".")[0] for n, e in self.entries.items() if e["kind"] != "env"]
        return {".".join(n.split(".")[: i + 1]) for n in names for i in range(n.count(".") + 1)}

    def signatures(self, symbol: str, method: str | None = None) -> list[inspect.Signature]:
        """Of a function, a constructor or a method (without self): one for each overload."""
        recorded = self.entry(symbol)
        if method is not None:
            recorded = recorded["methods"][method]
        return [make_signature(overload) for overload in recorded.get("overloads", [recorded])]

    def accepts_type(self, symbol: str, wanted: str, value: object) -> bool:
        """Whether a value is of a type as the table writes it; `symbol` is whose argument it is."""
        if wanted.startswith("list["):
            return isinstance(value, list) and all(self.accepts_type(symbol, wanted[5:-1], v) for v in value)
        if wanted == "Tensor":
            return type(value).__module__.startswith("torch")
        if wanted in SIMPLE:
            return isinstance(value, SIMPLE[wanted]) and (wanted == "bool" or not isinstance(value, bool))
        return getattr(type(value), "__symbol__", None) == self.resolve(wanted)


def is_without_engines(version: str) -> bool:
    """Whether a version is 1.3.0rc21 or later, from which on there is no engine to compile."""
    release, _, candidate = version.partition("rc")
    numbers = [int(part) for part in release.split(".")]
    return numbers > [1, 3, 0] or (numbers == [1, 3, 0] and (not candidate or int(candidate) >= 21))


def make_signature(recorded: Mapping[str, Any]) -> inspect.Signature:
    """Of an entry's `params` and `kwonly`, or of its `fields`. Defaults are as the table writes them."""
    kind, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    rows = [(n, d, kind) for n, d in recorded.get("params", [])]
    rows += [(n, d, keyword) for n, d in recorded.get("kwonly", [])]
    rows += [(n, d, keyword) for n, d in recorded.get("fields", {}).items()]
    parameters = [
        inspect.Parameter(name, how, default=EMPTY if default == "REQ" else default)
        for name, default, how in rows
        if default != "VAR"
    ]
    rest = [inspect.Parameter(n.lstrip("*"), inspect.Parameter.VAR_KEYWORD) for n, d, _ in rows if d == "VAR"]
    return inspect.Signature(parameters + rest)


class Library:
    """Everything that one fake package shares: its table, the objects by symbol, and all calls that were made."""

    def __init__(self, contract: Contract):
        self.contract = contract
        self.objects: dict[str, Any] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def bind(
        self, symbol: str, method: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], set[str]]:
        """All arguments by name, defaults made, and which of them were given. Records the call. Raises TypeError."""
        name = symbol if method is None else f"{symbol}.{method}"
        reasons = []
        recorded = self.contract.entry(symbol)
        recorded = recorded if method is None else recorded["methods"][method]
        for overload in recorded.get("overloads", [recorded]):
            try:
                bound = make_signature(overload).bind(*args, **kwargs)
                self._check_types(name, symbol, overload, bound.arguments)
            except TypeError as error:
                reasons.append(str(error))
                continue
            given = set(bound.arguments)
            bound.apply_defaults()
            values = {k: v if k in given else self.default(symbol, v) for k, v in bound.arguments.items()}
            self.calls.append((name, dict(values)))
            return values, given
        raise TypeError(f"{name}: {'; or '.join(reasons)} (incompatible with the contract table)")

    def default(self, symbol: str, default: Any) -> Any:
        """What a default of the table stands for, made anew; one that was not recorded is the text itself."""
        if not isinstance(default, str):
            return copy.deepcopy(default)
        owner, _, member = default.rpartition(".")
        name = default.removesuffix("()") if default.endswith("()") else owner
        places = (name, f"{symbol.rpartition('.')[0]}.{name}", f"tensorrt_llm.plugin.{name}")
        made = next((self.objects[place] for place in places if place in self.objects), None)
        if made is None:
            return default
        return made() if default.endswith("()") else getattr(made, member)

    def _check_types(self, name: str, symbol: str, recorded: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        for key, wanted in recorded.get("types", {}).items():
            if arguments.get(key) is None or key not in arguments:
                continue
            if not self.contract.accepts_type(symbol, wanted, arguments[key]):
                raise TypeError(f"{name}: {key} is a {type(arguments[key]).__name__} {arguments[key]!r}, not {wanted}")


def make_enum(symbol: str, entry: Mapping[str, Any]) -> type[enum.Enum]:
    """An enumeration; members are no strings, unless the table says so."""
    members = {member: member for member in entry["members"]}
    made: Any = enum.Enum(symbol.rpartition(".")[2], members, type=str if entry.get("str") else None)
    made.__symbol__ = symbol
    return made  # type: ignore[no-any-return]


def make_class(
    library: Library, symbol: str, behaviour: type | None = None, dropped: frozenset[str] = frozenset()
) -> type:
    """A class with the recorded constructor, methods and attributes and no others.

    `behaviour` has what stands behind it: `__init__` takes all arguments by name, methods too; without it an object
    holds its arguments. Values of the fields in `dropped` are taken and not kept. Objects that the library makes come
    from `wrap`.
    """
    entry = library.contract.entry(symbol)
    is_model = entry["kind"] == "model"
    readable = {*entry.get("read", ()), *entry.get("fields", ())}
    writable = {*entry.get("write", ()), *entry.get("fields", ())}

    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        if "params" not in entry and "fields" not in entry:
            raise TypeError(f"{symbol} has no constructor in the contract table")
        try:
            values, given = library.bind(symbol, None, args, kwargs)
        except TypeError as error:
            raise (ValidationError(str(error)) if is_model else error) from None
        for name in given & dropped:
            values[name] = library.default(symbol, entry["fields"][name])
        check_choices(symbol, entry, values)
        object.__setattr__(self, "_behind", behaviour(**values) if behaviour else HeldValues(values))

    def read(self: Any, name: str) -> Any:
        if name not in readable:
            raise AttributeError(f"{symbol}.{name} is not in the contract table")
        value = getattr(self._behind, name)
        return getattr(self._behind, entry["auto"]) if value == "auto" and "auto" in entry else value

    def write(self: Any, name: str, value: Any) -> None:
        if name not in writable:
            kind = ValidationError if is_model else AttributeError
            raise kind(f"{symbol}.{name} cannot be set: it is not in the contract table, or read-only")
        check_choices(symbol, entry, {name: value})
        if name not in dropped:
            setattr(self._behind, name, value)

    body: dict[str, Any] = {"__symbol__": symbol, "__slots__": ("_behind",), "__init__": start}
    body |= {"__getattr__": read, "__setattr__": write}
    for name, recorded in entry.get("methods", {}).items():
        method = make_method(library, symbol, name, behaviour)
        body[name] = classmethod(method) if recorded.get("classmethod") else method
    return type(symbol.rpartition(".")[2], (), body)


class HeldValues:
    """Holds the arguments that an object was made of."""

    def __init__(self, values: Mapping[str, Any]):
        self.__dict__.update(values)


def check_choices(symbol: str, entry: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    for name, allowed in entry.get("choices", {}).items():
        if name in values and values[name] not in allowed:
            raise ValidationError(f"{symbol}.{name} is {values[name]!r}: one of {allowed} is wanted")


def make_method(library: Library, symbol: str, name: str, behaviour: type | None) -> Callable[..., Any]:
    """Binds, records, and passes the arguments on by name; a class method gets the class."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        values, _ = library.bind(symbol, name, args, kwargs)
        if not hasattr(behaviour, name):
            raise NotImplementedError(f"{symbol}.{name}: the fake has nothing behind it")
        if isinstance(self, type):
            return getattr(behaviour, name)(self, **values)
        result = getattr(self._behind, name)(**values)
        return self if result is self._behind else result

    method.__name__ = name
    return method


def make_function(library: Library, symbol: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """A function that binds and records before it does what `behaviour` does."""

    @functools.wraps(behaviour)
    def function(*args: Any, **kwargs: Any) -> Any:
        values, _ = library.bind(symbol, None, args, kwargs)
        rest = values.pop("kwargs", {}) if "kwargs" not in kwargs else {}
        return behaviour(**values, **rest)

    return function


def wrap(made: type, behind: Any) -> Any:
    """An object of a generated class that the library itself makes."""
    outer = object.__new__(made)
    object.__setattr__(outer, "_behind", behind)
    return outer
