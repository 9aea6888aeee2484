"""Brace patterns as webdataset and bash write them, in; every string they stand for, in order, out.

`{00000..00099}` counts with leading zeros, `{0..8..2}` in steps, `{9..0}` backwards, `{a,b}` lists; all of it nests.
Braces that are neither a range nor a list stay as they are.
"""

import re
from collections.abc import Iterator

from recap_fast.addresses import public_url
from recap_fast.errors import ConfigError

_RANGE = re.compile(r"(-?[0-9]+)\.\.(-?[0-9]+)(?:\.\.(-?[0-9]+))?")
MAX_NAMES = 10_000_000
MAX_BRACES = 200
MAX_DIGITS = 255
"""Of a number: no file name is longer."""


def expand_braces(pattern: str) -> Iterator[str]:
    """The strings of a pattern, leftmost brace slowest.

    Raises ConfigError, before any is made, for more than `MAX_NAMES` of them and for numbers that no name could hold.
    """
    if pattern.count("{") > MAX_BRACES:
        raise ConfigError(f"{_shown(pattern)} has over {MAX_BRACES} braces: write it with fewer.")
    if _num_names(pattern) > MAX_NAMES:
        raise ConfigError(f"{_shown(pattern)} stands for over {MAX_NAMES:,} names: write it with fewer braces.")
    return _expand(pattern)


def _shown(pattern: str) -> str:
    text = public_url(pattern)
    return repr(text if len(text) <= MAX_DIGITS else f"{text[:100]}...")


def _num_names(pattern: str) -> int:
    """How many strings `_expand` gives."""
    if (found := _first_brace(pattern)) is None:
        return 1
    _, parts, match, end = found
    num_tails = _num_names(pattern[end + 1 :])
    if match is None:
        return sum(map(_num_names, parts)) * num_tails
    if max(map(len, match[0].split(".."))) > MAX_DIGITS:
        raise ConfigError(f"{_shown(pattern)} has a number of over {MAX_DIGITS} digits: no file has such a name.")
    first, last, stride, _ = _range(match)
    return (abs(last - first) // stride + 1) * num_tails


def _expand(pattern: str) -> Iterator[str]:
    if (found := _first_brace(pattern)) is None:
        yield pattern
        return
    start, parts, match, end = found
    for middle in _numbers(match) if match else (text for part in parts for text in _expand(part)):
        for tail in _expand(pattern[end + 1 :]):
            yield pattern[:start] + middle + tail


def _first_brace(pattern: str) -> tuple[int, list[str], re.Match[str] | None, int] | None:
    """Of the first range or list: where it opens, its parts, the range that it is, and where it closes."""
    start = pattern.find("{")
    while start >= 0:
        parts, end = _split(pattern, start)
        match = _RANGE.fullmatch(parts[0]) if len(parts) == 1 else None
        if len(parts) > 1 or match:
            return start, parts, match, end
        start = pattern.find("{", start + 1)
    return None


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


def _range(match: re.Match[str]) -> tuple[int, int, int, int]:
    """First, last, stride and width. Like bash: with leading zeros at either end, all get the longer one's width."""
    first, last, step = match.groups()
    padded = any(re.match(r"-?0\d", end) for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return int(first), int(last), max(1, abs(int(step or 1))), width


def _numbers(match: re.Match[str]) -> Iterator[str]:
    first, last, stride, width = _range(match)
    numbers = range(first, last + 1, stride) if first <= last else range(first, last - 1, -stride)
    return (f"{number:0{width}d}" for number in numbers)
