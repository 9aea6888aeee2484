"""Nonsense in the place of every value of a json, for what must refuse it by name or live with it."""

import json
import math
from collections.abc import Iterator
from typing import Any

MISSING = object()
NONSENSE: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "minus one": -1,
    "a half": 0.5,
    "two billion": 2_000_000_000,
    "huge": 10**30,
    "many digits": 10**4000,
    "not a number": math.nan,
    "infinite": math.inf,
    "a word": "x",
    "no text": "",
    "NUL": "\0",
    "half a pair": "\ud800",
    "long": "z" * 5000,
    "a list": [],
    "lists": [[]],
    "numbers": [1, 2],
    "a table": {},
    "tables": {"a": {"b": 1}},
    "missing": MISSING,
}
"""By what it is called in a test's name."""
Place = tuple[str | int, ...]


def places(content: Any, parent: Place = (), most: int = 12) -> Iterator[Place]:
    """Where values are, tables and lists among them; of large ones the first and the last."""
    items: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))
    for key, value in items if len(items) <= most else [*items[:2], items[-1]]:
        yield (*parent, key)
        yield from places(value, (*parent, key), most)


def tampered(content: Any, place: Place, value: Any) -> Any:
    """A copy with another value there."""
    copy = json.loads(json.dumps(content))
    *parents, last = place
    found = copy
    for key in parents:
        found = found[key]
    if value is MISSING:
        del found[last]
    else:
        found[last] = value
    return copy
