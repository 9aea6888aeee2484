"""Objects and functions that take what their annotations say and nothing else, as nanobind's do; all calls are kept."""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What a fake library does wrong. The defaults are one that works, with the order and the pauses of a real one."""

    version: str = "1.2.1"
    """Of the package."""
    drop: tuple[str, ...] = ()
    """Fields that take a value and keep their default, without a word."""
    empty_polls: int = 1
    """How often await_responses returns nothing, at once, before it returns something."""
    failing: tuple[int, ...] = ()
    """Requests that are answered with an error: 0 is the first that was made."""
    dies_after: int | None = None
    """The executor ends after so many answers."""
    dies_silently: bool = False
    """It then answers nothing for ever, instead of raising."""


@dataclass
class Fake:
    """The fake package that is installed now, for what a test asks of it."""

    faults: Faults
    kept: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def calls(self, name: str) -> list[dict[str, Any]]:
        """The arguments, defaults among them, of each call of a class, a function or a `Class.method`."""
        return [arguments for called, arguments in self.kept if called == name]


INSTALLED: list[Fake] = []
"""At most one, by package.installed."""


class TrapError(Exception):
    """The real library would not say so clearly, or not at all: a trap that its users know."""


class Strict:
    """Base of dataclasses with slots: a value of another type than its field's, or an unknown name, raises."""

    __slots__ = ()

    def __post_init__(self) -> None:
        INSTALLED[0].kept.append((type(self).__name__, {name: getattr(self, name) for name in _fields(self)}))

    def __setattr__(self, name: str, value: object) -> None:
        if found := _fields(self).get(name):
            check(f"{type(self).__name__}.{name}", value, found.type)
            value = found.default if name in INSTALLED[0].faults.drop else value
        object.__setattr__(self, name, value)


def strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks the arguments of a function or a method against its annotations, and keeps them."""
    signature, name = inspect.signature(function), function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = {key: value for key, value in bound.arguments.items() if key not in ("self", "cls")}
        for key, value in given.items():
            check(f"{name}: {key}", value, signature.parameters[key].annotation)
        INSTALLED[0].kept.append((name, given))
        return function(*args, **kwargs)

    return checked


def check(what: str, value: object, kind: Any) -> None:
    """Raises TypeError for a value of another type: a numpy integer is no int here, a bool neither, a tuple no list."""
    if not _fits(value, kind):
        raise TypeError(f"{what} is {value!r}, a {type(value).__name__}: expected {kind}")


def _fits(value: object, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, each) for each in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if origin is typing.Literal:
        return value in inner
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _fields(of: Any) -> dict[str, Any]:
    return {found.name: found for found in dataclasses.fields(of)}
