"""Compares the contract table with the real package, where it is installed: in NVIDIA's container.

    PYTHONPATH=tests python -m trtllm_fake.regenerate

prints what differs, a line each, and ends with 1 where anything does. Python's classes are asked with
inspect.signature, pydantic's with model_fields, nanobind's by the signatures that their docstrings begin with.
It has never met the real package; its readers of docstrings and fields are tested with imitations.
"""

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from typing import Any

from trtllm_fake.contract import EMPTY, Contract, make_signature

UNRECORDED = ("default", "opaque", "?")
OVERLOAD = re.compile(r"^(?:\d+\.\s*``|\s*)(?P<name>\w+)\((?P<parameters>.*)\)\s*->", re.MULTILINE)


def differences(contract: Contract) -> list[str]:
    """What the installed package has otherwise than the table, as 'symbol: what'."""
    found: list[str] = []
    for symbol, entry in contract.entries.items():
        if entry["kind"] == "env":
            continue
        try:
            real = find(symbol)
        except (ImportError, AttributeError) as error:
            found.append(f"{symbol}: is not there ({error})")
            continue
        found += [f"{symbol}: {text}" for text in compare(real, symbol, entry, contract)]
    return found


def find(symbol: str) -> Any:
    """The object of a symbol. Raises ImportError or AttributeError."""
    module, _, name = symbol.rpartition(".")
    return getattr(importlib.import_module(module), name)


def compare(real: Any, symbol: str, entry: Mapping[str, Any], contract: Contract) -> list[str]:
    """What one object has otherwise than its entry."""
    if entry["kind"] == "alias":
        return [] if real is find(entry["of"]) else [f"is not {entry['of']}"]
    if entry["kind"] == "value":
        return [] if real == entry["value"] else [f"is {real!r}, not {entry['value']!r}"]
    if entry["kind"] == "enum":
        return [f"has no member {name}" for name in entry["members"] if not hasattr(real, name)]
    if entry["kind"] == "exception":
        return [] if issubclass(real, RuntimeError) else ["is no RuntimeError"]
    found = []
    if "fields" in entry:
        found += compare_parameters(real_fields(real), dict(entry["fields"]))
    elif "params" in entry or "kwonly" in entry:
        found += compare_signatures(real, entry)
    for name in entry.get("methods", {}):
        if not hasattr(real, name):
            found.append(f"has no method {name}")
            continue
        for overload in entry["methods"][name].get("overloads", [entry["methods"][name]]):
            found += [f"{name}: {text}" for text in compare_signatures(getattr(real, name), overload)]
    if entry["kind"] == "class":
        names = set(entry.get("read", ())) | set(entry.get("write", ()))
        known = set(dir(real)) | set(getattr(real, "__annotations__", ()))
        assigned = set(re.findall(r"self\.(\w+)", source_of(real)))
        found += [f"has no attribute {name}" for name in sorted(names - known - assigned)]
    return found


def compare_signatures(real: Any, entry: Mapping[str, Any]) -> list[str]:
    """Whether one of the real signatures takes what the entry says; the differences of the nearest where none does."""
    wanted = {p.name: p.default for p in make_signature(entry).parameters.values() if p.kind != p.VAR_KEYWORD}
    candidates = [compare_parameters(signature, wanted) for signature in real_signatures(real)]
    return min(candidates, key=len) if candidates else ["has no signature that can be read"]


def compare_parameters(real: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names and plain defaults; the real one may have more. `None` in `real` is a default that cannot be compared."""
    found = [f"has no parameter {name}" for name in wanted if name not in real and "**" not in real]
    for name, default in wanted.items():
        if name not in real or is_unrecorded(default) or is_incomparable(real[name]):
            continue
        if plain(real[name]) != plain(default):
            found.append(f"{name} has the default {plain(real[name])!r}, not {plain(default)!r}")
    required = [n for n, d in real.items() if d is EMPTY and n != "**" and n not in wanted]
    return found + [f"requires {name}" for name in required]


def is_unrecorded(default: Any) -> bool:
    """Whether the table's default stands for something else than itself."""
    return isinstance(default, str) and (default in UNRECORDED or default.endswith("()") or "." in default)


def is_incomparable(default: Any) -> bool:
    return callable(default) and default is not EMPTY


def plain(default: Any) -> Any:
    """A default to compare: an enumeration's member is its value, so that 'auto' and Mode.auto are one."""
    return "required" if default is EMPTY else getattr(default, "value", default)


def real_signatures(real: Any) -> list[dict[str, Any]]:
    """Parameters by name, with their defaults; '**' for more keywords. Several for nanobind's overloads."""
    if is_nanobind(real):
        made = real.__init__ if isinstance(real, type) else real
        return nanobind_signatures(made.__doc__ or "")
    return [python_parameters(inspect.signature(real))]


def python_parameters(signature: inspect.Signature) -> dict[str, Any]:
    named = {p.name: p.default for p in signature.parameters.values() if p.name not in ("self", "cls")}
    keywords = [p.name for p in signature.parameters.values() if p.kind == p.VAR_KEYWORD]
    return {"**" if name in keywords else name: None if name in keywords else d for name, d in named.items()}


def real_fields(real: Any) -> dict[str, Any]:
    """Fields of a pydantic model or a dataclass, with their defaults; those that a factory makes cannot be compared."""
    if hasattr(real, "model_fields"):
        return {
            name: EMPTY if f.is_required() else f.default_factory or f.default for name, f in real.model_fields.items()
        }
    if not dataclasses.is_dataclass(real):
        return python_parameters(inspect.signature(real))
    missing = dataclasses.MISSING
    return {
        f.name: f.default_factory if f.default_factory is not missing else EMPTY if f.default is missing else f.default
        for f in dataclasses.fields(real)
        if f.init
    }


def is_nanobind(real: Any) -> bool:
    kind = real if isinstance(real, type) else type(real)
    return "nanobind" in f"{type(kind).__module__}.{type(kind).__name__}" or type(real).__name__.startswith("nb_")


def nanobind_signatures(text: str) -> list[dict[str, Any]]:
    """The signatures that a nanobind docstring begins with: `f(self, ids: list[int], *, top_k: int = 1) -> X`."""
    found = []
    for match in OVERLOAD.finditer(text):
        parameters: dict[str, Any] = {}
        for part in split_parameters(match["parameters"]):
            name, _, rest = part.partition(":")
            _, has_default, default = rest.rpartition("=")
            if name.strip() not in ("self", "*", "/", "", "arg"):
                parameters[name.strip()] = read_default(default.strip()) if has_default else EMPTY
        found.append(parameters)
    return found


def split_parameters(text: str) -> list[str]:
    """Splits at commas that are in no brackets."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and not depth:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def read_default(text: str) -> Any:
    """A Python literal, or a class where it is the text of an object."""
    known = {"None": None, "True": True, "False": False}
    if text in known:
        return known[text]
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return object


def source_of(real: Any) -> str:
    """Its class's Python source with that of its bases, empty where there is none: attributes are set in methods."""
    texts = []
    for each in getattr(real, "__mro__", ()):
        try:
            texts.append(inspect.getsource(each))
        except (OSError, TypeError):
            continue
    return "\n".join(texts)


def main() -> int:
    """Prints the differences from the installed package."""
    version = find("tensorrt_llm.__version__")
    found = differences(Contract(version))
    sys.stdout.write("".join(f"{line}\n" for line in found) + f"{len(found)} differences from {version}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
