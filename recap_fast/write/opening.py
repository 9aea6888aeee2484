"""Opens an output folder for a run: makes it or goes on in it, and says which shards the run's inputs are there.

The folder and what a run wants of it go in. The run's shards come out, or a refusal that names what is in the way.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recap_fast.addresses import public_url
from recap_fast.atomic import is_temporary, make_folder
from recap_fast.errors import ConfigError
from recap_fast.inputs import Inputs
from recap_fast.records import Identity, Shard
from recap_fast.write.done_record import read_record
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.register import Register, Registration, VersionsOf
from recap_fast.write.relocation import follow_move
from recap_fast.write.run_file import RunFile, as_json, read_run_file, refuse_other_fingerprint, write_run_file
from recap_fast.write.units import read_units, write_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a run wants of an output folder."""

    fingerprint: Mapping[str, Any]
    """Everything that decides what the rows of the run say; anything that JSON can hold."""
    inputs: Inputs
    version_of: Callable[[Shard], Identity]
    """The version of an input as it is now. Raises ShardError if the input is gone."""
    versions_of: VersionsOf
    prune: bool = False
    """Whether to remove the rows of images that are gone."""
    relocate: Sequence[tuple[str, str]] = ()
    """Folders of inputs that were moved: old and new."""
    accept_changed: Sequence[str] = ()
    """Fields of the fingerprint that may differ from what the folder has."""
    overwrite: str | None = None
    """The command, if it may remove what other commands have written; None if nothing may be removed."""


@dataclass(frozen=True, slots=True)
class _Merged:
    run: RunFile
    is_new: bool
    registration: Registration
    shards: tuple[Shard, ...]


def open_output(output: OutputFolder, wanted: Wanted) -> tuple[Shard, ...]:
    """Makes the folder or goes on in it; returns the run's shards, as the folder names them.

    Raises ConfigError for a folder with another fingerprint or other files, and for inputs that take the place of known
    ones.
    """
    try:
        make_folder(output.root)
    except OSError as error:
        raise ConfigError(f"--output {output.root} cannot be made: {error}.") from error
    with _locked(output.root):
        old = _read(output, wanted)
        if old is None:
            if output.run_file.exists():
                _clear(output)
            else:
                _refuse_foreign_files(output)
        merged = _merge(output, old, wanted)
        if old is None:  # before the units' files: in a folder without a run file they would be foreign
            write_run_file(output, replace(merged.run, shards={}, units=()))
        for name, unit in merged.registration.changed_units.items():
            write_unit(output, name, unit)
        if merged.is_new:
            write_run_file(output, merged.run)
    return merged.shards


def find_output(output: OutputFolder, wanted: Wanted) -> tuple[tuple[Shard, ...], bool]:
    """Like `open_output`, but leaves the folder as it is; also whether nothing in the folder counts."""
    old = _read(output, wanted)
    return _merge(output, old, wanted).shards, old is None


def forget(output: OutputFolder) -> None:
    """Undoes `open_output`, if nothing else was made yet."""
    if (run := read_run_file(output)) is not None:
        write_run_file(output, replace(run, shards={}, units=()))  # if this is killed now, the next run can still begin
    shutil.rmtree(output.units_folder, ignore_errors=True)
    output.run_file.unlink(missing_ok=True)
    output.local_file.unlink(missing_ok=True)


def read_register(output: OutputFolder, run: RunFile) -> Register:
    """What a folder has recorded of its shards. Raises ConfigError if that cannot be read, or contradicts itself."""
    register = Register(run.root, run.shards, read_units(output, run.units))
    if (twice := register.first_repeated()) is not None:
        raise not_as_written(output, f"they have {twice} twice")
    return register


def not_as_written(output: OutputFolder, problem: str) -> ConfigError:
    """The error to raise if the run file and the units' files do not agree."""
    return ConfigError(
        f"{output.run_file} or a file in {output.units_folder} is not as a run wrote it: {problem}. Put both back from "
        "a copy, or give another --output."
    )


def _read(output: OutputFolder, wanted: Wanted) -> RunFile | None:
    """The folder's run file; None if there is none, or nothing in the folder counts."""
    try:
        old = read_run_file(output)
    except ConfigError:
        if wanted.overwrite is None:
            raise
        return None
    if old is None or not old.shards:  # a run was killed while it opened the folder
        return None
    return None if wanted.overwrite and old.command != wanted.overwrite else old


def _merge(output: OutputFolder, old: RunFile | None, wanted: Wanted) -> _Merged:
    if old is not None:
        refuse_other_fingerprint(output, old.fingerprint, wanted.fingerprint, wanted.accept_changed)
    fingerprint = as_json(wanted.fingerprint)
    run = old or RunFile(fingerprint, public_url(wanted.inputs.root), {}, wanted.overwrite)
    register = read_register(output, run)
    for from_, to in wanted.relocate:
        register = register.relocated(from_, to)
    register = follow_move(register, wanted.inputs, lambda name: read_record(output.record(name)), wanted.version_of)
    registration = Registration(register, wanted.versions_of, wanted.prune)
    shards = registration.add(wanted.inputs)
    register = registration.result
    merged = replace(
        run.accepting(fingerprint, wanted.accept_changed),
        root=register.root,
        shards=dict(register.shards),
        units=tuple(name for name in register.shards if name in register.units),
    )
    return _Merged(merged, merged != old, registration, shards)


def _refuse_foreign_files(output: OutputFolder) -> None:
    paths = (path for path in output.root.iterdir() if path != output.local_file)
    names = sorted(path.name for path in paths if not is_temporary(path.name))
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ConfigError(
            f"{output.root} is not empty and no run made it (it has {shown}): give a new or empty --output."
        )


def _clear(output: OutputFolder) -> None:
    """The run file stays until there is another: without it the rest would be foreign. So does the card, whose marked
    pieces are written anew."""
    for folder in output.folders:
        if folder.is_symlink() and folder.is_dir():  # perhaps to another disk: only the content goes
            for path in folder.iterdir():
                _remove(path)
        else:
            _remove(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes of an array, started at the same moment, from writing the run file over ours."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot lock a folder
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
