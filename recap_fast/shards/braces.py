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
        parts, end = _split(pattern, start)
        match = _RANGE.fullmatch(parts[0]) if len(parts) == 1 else None
        if len(parts) > 1 or match:
            alternatives = _count(*match.groups()) if match else (text for part in parts for text in _expand(part))
            for middle in alternatives:
                for tail in _expand(pattern[end + 1 :]):
                    yield pattern[:start] + middle + tail
            return
        start = pattern.find("{", start + 1)
    yield pattern


def _split(pattern: str, start: int) -> tuple[list[str], int]:
    """What stands between the commas of the brace that opens at `start`, and where it closes; [] if it never does."""
    parts, depth, begin = [], 0, start + 1
    for position in range(start, len(pattern)):
        letter = pattern[position]
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth == 0 or (depth == 1 and letter == ","):
            parts.append(pattern[begin:position])
            begin = position + 1
        if depth == 0:
            return parts, position
    return [], 0


def _count(first: str, last: str, step: str | None) -> Iterator[str]:
    """Like bash: where either end is written with leading zeros, all numbers get the width of the longer one."""
    padded = any(re.match(r"-?0\d", end) for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    stride = max(1, abs(int(step or 1)))
    start, stop = int(first), int(last)
    numbers = range(start, stop + 1, stride) if start <= stop else range(start, stop - 1, -stride)
    return (f"{number:0{width}d}" for number in numbers)
