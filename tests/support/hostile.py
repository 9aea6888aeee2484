"""Hostile arguments for everything in a C++ module, thrown in a process of its own, which may not crash.

A test file makes the cases and runs itself: `run` in the child, `check` in the test.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from support.guard import GUARD_S

import recap_fast

REFUSALS = ("TypeError", "ValueError", "IndexError", "KeyError", "AttributeError", "OSError")
"""What may be raised; UnicodeError and Arrow's errors are ValueErrors."""
NO_NUMBERS = {"None": None, "str": "x", "list": [1], "object": object(), "type": int}
OBJECTS = {**NO_NUMBERS, "int": 5, "huge int": 2**70, "float": 1.5}
INTEGERS = {**NO_NUMBERS, "zero": 0, "negative": -1, "huge": 2**62, "beyond int64": 2**63, "float": 1.5}


class Case(NamedTuple):
    """One call."""

    function: str
    """As `public` names it."""
    label: str
    call: Callable[[], object]


def public(module: ModuleType) -> set[str]:
    """Functions, and methods as class.method, constructors and what a `with` calls among them."""
    found = set()
    for name, value in vars(module).items():
        if isinstance(value, type):
            kept = {"__init__", "__enter__", "__exit__"}
            found |= {f"{name}.{m}" for m in vars(value) if m in kept or not m.startswith("_")}
        elif callable(value) and not name.startswith("_"):
            found.add(name)
    return found


def call(module: ModuleType, name: str, arguments: dict[str, Any]) -> object:
    """Calls what `public` names so, the object of a method as `self`."""
    found = attrgetter(name.removesuffix(".__init__"))(module)
    found = found.fget if isinstance(found, property) else found
    owner = [arguments.pop("self")] if "self" in arguments else []
    return found(*owner, **arguments)


def usual(value: Any) -> dict[str, Any]:
    """Hostile values for a number, a flag and an object of the module."""
    if isinstance(value, bool):
        return {label: NO_NUMBERS[label] for label in ("str", "list", "object")}
    if isinstance(value, float):
        return NO_NUMBERS
    return INTEGERS if isinstance(value, int) else {"made by __new__": type(value).__new__(type(value)), **OBJECTS}


def cases(
    module: ModuleType,
    functions: Mapping[str, Callable[[], dict[str, Any]]],
    others: Callable[[str, Any], Iterable[tuple[str, Any]]],
) -> Iterator[Case]:
    """The valid call of each function, one with each other value of each argument, without each, and with one more.

    `functions` make valid arguments, anew each time. `others` are labels and hostile values for an argument of this
    name and with this value.
    """
    for name, valid in functions.items():
        tried = [("valid", valid()), ("one more", {**valid(), "one_more": 1})]
        for argument, value in valid().items():
            tried.append((f"without {argument}", {a: v for a, v in valid().items() if a != argument}))
            tried += [(f"{argument}: {label}", {**valid(), argument: new}) for label, new in others(argument, value)]
        yield from (Case(name, label, partial(call, module, name, arguments)) for label, arguments in tried)


def run(all_cases: Iterable[Case]) -> None:
    """In the child: writes each case before it is tried, and then what came of it."""
    for case in all_cases:
        sys.stdout.write(json.dumps([case.function, case.label]))
        sys.stdout.flush()
        outcome = "accepted"
        try:
            case.call()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            kinds = {kind.__name__ for kind in type(error).__mro__}
            outcome = next((r for r in REFUSALS if r in kinds), f"an error of the wrong kind: {error!r}")
        sys.stdout.write(f" {json.dumps(outcome)}\n")


def check(file: str, module: ModuleType, accepted: set[tuple[str, str]]) -> None:
    """In the test: the cases of a file are about all of a module, and of those that are not valid just these pass."""
    found = outcomes(file)
    names = public(module)
    assert {function for function, _ in found} == names, f"cases for {names} are missing or too many"
    wrong = {case: outcome for case, outcome in found.items() if outcome not in ("accepted", *REFUSALS)}
    assert not wrong, wrong
    expected = {(name, "valid") for name in names} | accepted
    passed = {case for case, outcome in found.items() if outcome == "accepted"}
    assert passed == expected, f"accepted: {passed - expected}; refused: {expected - passed}"


def outcomes(file: str) -> dict[tuple[str, str], str]:
    """What came of each case in a child that runs the file. Raises AssertionError, with the case, if it crashes."""
    paths = (Path(__file__).parents[1], Path(recap_fast.__file__).parents[1])  # it may not be installed
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", file]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GUARD_S, env=environment, cwd=folder, check=False
        )
    lines = done.stdout.splitlines()
    if done.returncode != 0:
        raise AssertionError(f"the process ended with {done.returncode} at {lines[-1] if lines else ''}\n{done.stderr}")
    decoder, found = json.JSONDecoder(), {}
    for line in lines:
        (function, label), end = decoder.raw_decode(line)
        found[function, label] = json.loads(line[end:])
    return found
