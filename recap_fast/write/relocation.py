"""Finds inputs that were moved: they have the same paths below another folder, and the same versions.

A register and the inputs of a run go in, the register as of now comes out. A sibling of known inputs, or a folder above
them, is not a move: it is added.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recap_fast.addresses import common_parts, is_below, is_remote, path_parts, public_url
from recap_fast.errors import ConfigError, ShardError
from recap_fast.inputs import Inputs
from recap_fast.records import Identity, Shard, ShardKind, ShardReport
from recap_fast.write.register import Register

MAX_PROBES = 256
"""How many of the inputs whose names agree are compared."""


@dataclass(frozen=True, slots=True)
class _File:
    """A tar, a Parquet file or a loose image."""

    url: str
    shard: str = ""
    """Name of its shard, if it is known."""
    path: str = ""
    """Path below its unit's folder, if it is a known loose image."""
    kind: ShardKind = "tar"
    version: str | None = None
    """Version of a loose image, as it was listed."""


def follow_move(
    register: Register,
    inputs: Inputs,
    record_of: Callable[[str], ShardReport | None],
    version_of: Callable[[Shard], Identity],
) -> Register:
    """The register, with its inputs where they are now.

    Raises ConfigError if inputs of the same names lie elsewhere in other versions, and the known ones are gone.
    """
    root = public_url(inputs.root)
    if not register.shards or is_below(root, register.root):
        return register
    given, known = list(_given(inputs)), {file.url: file for file in _known(register)}
    move = None if any(file.url in known for file in given) else _find_move(list(known), given)
    if move is None:
        return register  # a sibling, or in a folder above
    before, now = move
    agreeing = list(_agreeing(known, given, before, now))
    probes = agreeing[:: max(1, len(agreeing) // MAX_PROBES)]
    if _is_sibling(probes, version_of):
        return register
    try:
        moved = register.relocated(before, now)
    except ConfigError:  # it is part of a unit's folder, or other inputs of these names are known there
        return register
    if other := _other_version(probes, record_of, version_of):
        if 2 * len(agreeing) < len(given):
            return register  # only some names are the same
        raise ConfigError(
            f"the inputs in {now} have the names of those in {before}, which are gone, but other sizes or times: "
            f"{other}. If they were moved, give --relocate {before}={now}; otherwise give another --output."
        )
    return moved


def _agreeing(
    known: Mapping[str, _File], given: Sequence[_File], before: str, now: str
) -> Iterator[tuple[_File, _File]]:
    """The files that would have been moved: as they are known, and as they are given."""
    for new in given:
        old = known.get(f"{before}{new.url.removeprefix(now)}") if is_below(new.url, now) else None
        if old is not None:
            yield old, new


def _other_version(
    probes: Sequence[tuple[_File, _File]],
    record_of: Callable[[str], ShardReport | None],
    version_of: Callable[[Shard], Identity],
) -> str | None:
    """A sentence about a file that has changed since it was captioned; None if none is known to have."""
    for old, new in probes:
        then, now = _recorded(old, record_of), new.version or _version(new, version_of)
        if then and now and then != now:
            size_then, size_now = (version.partition(":")[0] for version in (then, now))
            change = "another time" if size_then == size_now else f"{size_now} bytes, and had {size_then}"
            return f"{new.url} has {change}"
    return None


def _find_move(known: Sequence[str], given: Sequence[_File]) -> tuple[str, str] | None:
    """The two folders between which most of the given files may have been moved; None if no name agrees."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for url in known:
        by_name[url.rpartition("/")[2]].append(url)
    moves: Counter[tuple[str, str]] = Counter()
    for new in given[:: max(1, len(given) // MAX_PROBES)]:
        olds = by_name.get(new.url.rpartition("/")[2], ())[:MAX_PROBES]
        pairs = [(_shared_end(old, new.url), old) for old in olds]
        if pairs:
            shared, old = max(pairs, key=lambda pair: pair[0])
            moves[old.rsplit("/", shared)[0], new.url.rsplit("/", shared)[0]] += 1
    return moves.most_common(1)[0][0] if moves else None


def _shared_end(one: str, other: str) -> int:
    """How many parts both addresses have in common at their ends, except a path's first part or a URL's host."""
    ends = [path_parts(url)[2 if is_remote(url) else 1 :][::-1] for url in (one, other)]
    return len(common_parts(ends))


def _is_sibling(probes: Sequence[tuple[_File, _File]], version_of: Callable[[Shard], Identity]) -> bool:
    """Whether known inputs are still where they were, and the given ones of the same names are other files."""
    are_there = any(_exists(old, version_of) for old, _ in probes)
    return are_there and not all(_is_same_file(old.url, new.url) for old, new in probes)


def _known(register: Register) -> Iterator[_File]:
    for name, url in register.shards.items():
        unit = register.units.get(name)
        if unit is None:
            yield _File(url, name)
        else:
            yield from (_File(f"{url}/{unit.files[i]}", name, unit.files[i]) for i in unit.places)


def _given(inputs: Inputs) -> Iterator[_File]:
    for source in inputs.sources:
        url = public_url(source.url)
        if source.kind != "folder":
            yield _File(url, kind=source.kind)
        for path, version in source.images:
            yield _File(f"{url}/{path}", version=version)


def _exists(file: _File, version_of: Callable[[Shard], Identity]) -> bool:
    return _version(file, version_of) is not None if is_remote(file.url) else os.path.lexists(file.url)


def _is_same_file(old: str, new: str) -> bool:
    try:
        return not is_remote(new) and Path(old).samefile(new)
    except OSError:
        return False


def _recorded(file: _File, record_of: Callable[[str], ShardReport | None]) -> str | None:
    """The version that was captioned, or None if that is not known."""
    record = record_of(file.shard)
    if record is None:
        return None
    if file.path:
        return record.files.get(file.path)
    return None if record.input is None else record.input.text


def _version(file: _File, version_of: Callable[[Shard], Identity]) -> str | None:
    try:
        return version_of(Shard("", file.url, file.kind)).text
    except ShardError:
        return None
