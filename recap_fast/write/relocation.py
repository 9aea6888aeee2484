"""Finds inputs that were moved: same names below another folder, and the same versions there.

In go a register and the inputs of a run; out comes the register as of now. A sibling of known inputs, or a folder
above them, is no move: it is added.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recap_fast.errors import ConfigError, ShardError
from recap_fast.records import Identity, Shard, ShardKind, ShardReport
from recap_fast.shard_set import Inputs, is_below, is_remote, public_url, relative
from recap_fast.write.register import Register

MAX_PROBES = 256
"""Of the inputs whose names agree, so many are compared."""


@dataclass(frozen=True, slots=True)
class _File:
    """A tar, a Parquet file or a loose image."""

    url: str
    shard: str = ""
    """Where it is known: of which shard."""
    path: str = ""
    """Where it is a known loose image: below its unit's folder."""
    kind: ShardKind = "tar"
    version: str | None = None
    """Of a loose image, as it was listed."""


def follow_move(
    register: Register,
    inputs: Inputs,
    record_of: Callable[[str], ShardReport | None],
    version_of: Callable[[Shard], Identity],
) -> Register:
    """The register, with its inputs where they are now.

    Raises ConfigError where inputs of the same names lie elsewhere, those that are known are not there any more, and
    what is there has other versions.
    """
    root = public_url(inputs.root)
    if not register.shards or is_below(root, register.root):
        return register
    given = list(_given(inputs))
    urls = {file.url for file in given}
    known = {relative(file.url, register.root): file for file in _known(register)}
    if any(file.url in urls for file in known.values()):
        return register  # the rest is a sibling, or in a folder above
    agreeing = [(old, new) for new in given if (old := known.get(relative(new.url, root)))]
    probes = agreeing[:: max(1, len(agreeing) // MAX_PROBES)]
    if not probes or _is_sibling(probes, version_of):
        return register
    for old, new in probes:
        then, now = _recorded(old, record_of), new.version or _version(new, version_of)
        if len({then, now} - {None, ""}) > 1:
            raise ConfigError(
                f"the inputs in {root} have the names of those in {register.root}, which are not there any more, but "
                f"other sizes or times: {new.url} has {now}, and {then} was captioned. If they were moved, give "
                f"--relocate {register.root}={root}; else give another --output."
            )
    return register.relocated(register.root, root)


def _is_sibling(probes: Sequence[tuple[_File, _File]], version_of: Callable[[Shard], Identity]) -> bool:
    """Whether known inputs are where they were, and those of the same names are others."""
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
    """The version that was captioned; None where that is not known."""
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
