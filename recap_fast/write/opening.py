"""Opens an output folder for a run: makes it or goes on in it, and says which shards the run's inputs are there.

The folder and what a run wants of it go in. The run's shards come out, or a refusal that names what is in the way.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from recap_fast.addresses import public_url
from recap_fast.errors import ConfigError
from recap_fast.inputs import Inputs
from recap_fast.records import Identity, Shard
from recap_fast.write.caption_lists import CaptionLists
from recap_fast.write.done_record import read_record
from recap_fast.write.fingerprint import as_json, refuse_other_fingerprint
from recap_fast.write.output_folder import FOLDERS, LOCAL_FILE, RUN_FILE, OutputFolder
from recap_fast.write.register import Register, Registration, VersionsOf
from recap_fast.write.relocation import follow_move
from recap_fast.write.run_file import (
    RunFile,
    Versions,
    find_versions,
    read_run_file,
    retry_until,
    write_run_file,
)
from recap_fast.write.units import read_units, write_units


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

    @property
    def prompt(self) -> str:
        """The question that is asked of every image."""
        return str(self.fingerprint.get("prompt", ""))


@dataclass(frozen=True, slots=True)
class _Merged:
    run: RunFile
    """Without the digests of units that are new or have changed."""
    registration: Registration
    shards: tuple[Shard, ...]


def open_output(output: OutputFolder, wanted: Wanted) -> tuple[Shard, ...]:
    """Makes the folder or goes on in it; returns the run's shards, as the folder names them.

    Processes that open it at the same moment find each other's shards: the run file is only written in place of the
    version that was read. Raises ConfigError for a folder with another fingerprint or other files, and for inputs that
    take the place of known ones.
    """
    try:
        output.store.make_root()
    except OSError as error:
        if output.is_out_of_reach(error):
            raise
        raise ConfigError(f"--output {output.address} cannot be made: {error}.") from error
    return retry_until(lambda: _try_open(output, wanted), output)


def _try_open(output: OutputFolder, wanted: Wanted) -> tuple[Shard, ...] | None:
    """The run's shards; None if the folder has to be looked at again."""
    versions = find_versions(output)
    old = _read(output, wanted)
    if old is None and not _begin(output, wanted, versions):
        return None
    try:
        merged = _merge(output, old, wanted)
    except ConfigError:
        if find_versions(output) != versions:  # another process has replaced a unit's file meanwhile
            return None
        raise
    changed = write_units(output, merged.registration.changed_units)
    run = replace(merged.run, units={**merged.run.units, **changed})
    if run != old and not write_run_file(output, run, versions):
        return None
    replaced = {} if old is None else {name: old.units[name] for name in changed if name in old.units}
    output.store.delete(output.unit(name, digest) for name, digest in replaced.items() if digest != changed[name])
    return merged.shards


def _begin(output: OutputFolder, wanted: Wanted, versions: Versions) -> bool:
    """Makes a folder ours whose content does not count. True once it has a run file without shards, and nothing else.

    Without that file what is written next would be foreign if this process were killed.
    """
    if versions.run is not None:
        with contextlib.suppress(ConfigError):
            begun = read_run_file(output)
            if begun is not None and not begun.shards and wanted.overwrite in (None, begun.command):
                if wanted.overwrite is not None:
                    _clear(output)
                return True
    else:
        try:
            _refuse_foreign_files(output)
        except ConfigError:
            if find_versions(output) != versions:  # another process has begun it meanwhile
                return False
            raise
    empty = RunFile(as_json(wanted.fingerprint), public_url(wanted.inputs.root), {}, wanted.overwrite)
    write_run_file(output, empty, versions)
    return False


def find_output(output: OutputFolder, wanted: Wanted) -> tuple[tuple[Shard, ...], bool]:
    """Like `open_output`, but leaves the folder as it is; also whether nothing in the folder counts."""
    old = _read(output, wanted)
    return _merge(output, old, wanted).shards, old is None


def forget(output: OutputFolder) -> None:
    """Undoes `open_output`, if nothing else was made yet."""
    versions = find_versions(output)
    run = read_run_file(output)
    # if this is killed now, the next run can still begin
    if run is not None and write_run_file(output, replace(run, shards={}, units={}), versions):
        _clear(output)
        output.store.delete([RUN_FILE, LOCAL_FILE])


def read_register(output: OutputFolder, run: RunFile) -> Register:
    """What a folder has recorded of its shards. Raises ConfigError if that cannot be read, or contradicts itself."""
    register = Register(run.root, run.shards, read_units(output, run.units))
    if (twice := register.first_repeated()) is not None:
        raise not_as_written(output, f"they have {twice} twice")
    return register


def read_lists(output: OutputFolder, run: RunFile) -> CaptionLists:
    """The captions that rows of a run have. Raises ConfigError if its fingerprint is not as a run writes it."""
    try:
        return CaptionLists.of(run.fingerprint)
    except ValueError as error:
        raise not_as_written(output, str(error)) from error


def not_as_written(output: OutputFolder, problem: str) -> ConfigError:
    """The error to raise if the run file and the units' files do not agree."""
    return ConfigError(
        f"{output.store.shown(RUN_FILE)} or a file that lists images is not as a run wrote it: {problem}. Put both "
        "back from a copy, or give another --output."
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
    register = follow_move(register, wanted.inputs, lambda name: read_record(output, name), wanted.version_of)
    registration = Registration(register, wanted.versions_of, wanted.prune)
    shards = registration.add(wanted.inputs)
    register = registration.result
    merged = replace(
        run.accepting(fingerprint, wanted.accept_changed),
        root=register.root,
        shards=dict(register.shards),
        units={name: run.units.get(name, "") for name in register.units},
    )
    return _Merged(merged, registration, shards)


def _refuse_foreign_files(output: OutputFolder) -> None:
    names = (file.name for file in output.store.list() if file.name != LOCAL_FILE)
    first = list(islice(dict.fromkeys(name.partition("/")[0] for name in islice(names, 1000)), 6))
    if first:
        shown = ", ".join(first[:5]) + (", ..." if len(first) > 5 else "")
        raise ConfigError(
            f"{output.address} is not empty and no run made it (it has {shown}): give a new or empty --output."
        )


def _clear(output: OutputFolder) -> None:
    """The run file stays until there is another: without it the rest would be foreign. So does the card, whose marked
    pieces are written anew."""
    for folder in FOLDERS:
        output.store.delete(file.name for file in output.store.list(folder))
    output.store.delete(file.name for file in output.store.list() if output.is_metrics(file.name))
