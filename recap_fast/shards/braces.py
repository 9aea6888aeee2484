"""Brace patterns as webdataset and bash write them, in; every string they stand for, in order, out.

`{00000..00099}` counts with leading zeros, `{0..8..2}` in steps, `{9..0}` backwards, `{a,b}` lists; all of it nests.
Braces that are neither a range nor a list stay as they are.
"""

import re
from collections.abc import Iterator

from recap_fast.errors import ConfigError

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
MAX_EXPANSIONS = 2_000_000


def expand_braces(pattern: str) -> Iterator[str]:
    """The strings of a pattern, leftmost brace slowest. Raises ConfigError for more than `MAX_EXPANSIONS` of them."""
    for number, text in enumerate(_expand(pattern)):
        if number >= MAX_EXPANSIONS:
            raise ConfigError(f"{pattern!r} stands for over {MAX_EXPANSIONS:,} names: write it with fewer braces.")
        yield text


def _expand(pattern: str) -> Iterator[str]:
    start = pattern.find("{")
    while start >= 0:
        end = _closing(pattern, start)
        if end is not None:
            body, rest = pattern[start + 1 : end], pattern[end + 1 :]
            alternatives = _range(body) or _list(body)
            if alternatives is not None:
                for middle in alternatives:
                    for tail in _expand(rest):
                        yield pattern[:start] + middle + tail
                return
        start = pattern.find("{", start + 1)
    yield pattern


def _closing(pattern: str, start: int) -> int | None:
    depth = 0
    for position in range(start, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[position], 0)
        if depth == 0:
            return position
    return None


def _range(body: str) -> Iterator[str] | None:
    match = _RANGE.fullmatch(body)
    return _count(match[1], match[2], match[3]) if match else None


def _count(first: str, last: str, step: str | None) -> Iterator[str]:
    """Like bash: where either end is written with leading zeros, all numbers get the width of the longer one."""
    padded = any(re.match(r"-?0\d", end) for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    stride = max(1, abs(int(step or 1)))
    start, stop = int(first), int(last)
    numbers = range(start, stop + 1, stride) if start <= stop else range(start, stop - 1, -stride)
    return (f"{number:0{width}d}" for number in numbers)


def _list(body: str) -> Iterator[str] | None:
    parts, depth, begin = [], 0, 0
    for position, letter in enumerate(body):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(body[begin:position])
            begin = position + 1
    if not parts:
        return None
    parts.append(body[begin:])
    return (text for part in parts for text in _expand(part))
