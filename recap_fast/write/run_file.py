"""The run file: what all outputs in a folder have in common, and the shards of all runs into it.

Writes it and reads it back; a file that has another format or cannot be read is refused in a sentence. The run file may
be published. What belongs to this machine, the paths of inputs and the command, is beside it in the local file.

No store writes two files at once. So the run file names its part of the local file by a digest, and a process that is
about to write a run file adds its part first, and leaves those that others may be about to name.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from recap_fast.errors import ConfigError, RecapError
from recap_fast.records import SCHEMA_VERSION
from recap_fast.write.output_folder import LOCAL_FILE, RUN_FILE, OutputFolder
from recap_fast.write.typed_json import OtherFormatError, read_json, typed

T = TypeVar("T")
FORMAT = 4
ELSEWHERE = "/elsewhere"
"""Stands for the folder of the inputs if there is no local file."""
MAX_BYTES = 1 << 30
"""Largest run file that is read: it has some millions of shards."""
NUM_ATTEMPTS, LONGEST_PAUSE_S = 100, 2.0
"""Hundreds of processes of an array may begin, or end, at the same moment."""
READABLE_SCHEMAS = (2, 3, SCHEMA_VERSION)
"""Versions of outputs that can be read: columns that came later are null."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes on devices of one name have done, those that have ended."""

    processes: int
    images: int
    """That got a caption."""
    seconds: float
    """For which they held their devices, from the start of each process to its end."""
    is_gpu: bool

    def __add__(self, other: "Usage") -> "Usage":
        seconds = round(self.seconds + other.seconds, 1)
        return Usage(self.processes + other.processes, self.images + other.images, seconds, self.is_gpu)


@dataclass(frozen=True, slots=True)
class RunFile:
    """The content of the run file."""

    fingerprint: Mapping[str, Any]
    root: str
    """The folder or URL below which shards are named: that of the first run into the folder."""
    shards: Mapping[str, str]
    """Name to URL."""
    command: str | None = None
    """The command that has made the folder with --overwrite: typed again, it goes on in it."""
    accepted: tuple[Mapping[str, Any], ...] = ()
    """Fields of the fingerprint that were changed on request: name, and values before and after."""
    units: Mapping[str, str] = field(default_factory=dict)
    """The shards that are units of loose images: their names, and the digests of the files that list the images."""
    usage: Mapping[str, Usage] = field(default_factory=dict)
    """By name of the device."""

    def __post_init__(self) -> None:
        """Raises ValueError for a name that would lead out of the output folder."""
        for name in self.shards:
            if {"", ".", ".."}.intersection(name.split("/")):
                raise ValueError(f"{name!r:.60} is not a shard's name")

    @property
    def has_flags(self) -> bool:
        """Whether rows have flags: since schema 3."""
        return bool(self.fingerprint.get("schema", SCHEMA_VERSION) != 2)

    def accepting(self, fingerprint: Mapping[str, Any], accepted: Sequence[str]) -> "RunFile":
        """The same with another fingerprint, which differs only in fields that were accepted by name."""
        changes = [
            {"field": name, "from": self.fingerprint.get(name), "to": fingerprint.get(name)}
            for name in accepted
            if self.fingerprint.get(name) != fingerprint.get(name)
        ]
        return replace(self, fingerprint=fingerprint, accepted=(*self.accepted, *changes))


@dataclass(frozen=True, slots=True)
class _Local:
    """A part of the local file: what belongs to one run file."""

    root: str = ELSEWHERE
    command: str | None = None
    shards: Mapping[str, str] = field(default_factory=dict)
    """Name to URL of the shards that do not lie below the root."""

    @property
    def digest(self) -> str:
        """By which the run file names it."""
        text = json.dumps([self.root, self.command, self.shards], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Other(_Local):
    """A part that was there when another was added."""

    over: str | None = None
    """The version of the run file at that time: a run file that takes the place of a later one does not name it."""


@dataclass(frozen=True, slots=True)
class _Others:
    """What the local file has besides the part that was added last."""

    others: tuple[_Other, ...]
    """The last one first."""


@dataclass(frozen=True, slots=True)
class Versions:
    """Which versions of the two files are there; None for one that is not."""

    run: str | None
    local: str | None


def find_versions(output: OutputFolder) -> Versions:
    """The versions as they are now, the local file's first. Files that are read later are of these or newer ones."""
    local, run = (output.store.stat(name) for name in (LOCAL_FILE, RUN_FILE))
    return Versions(None if run is None else run.version, None if local is None else local.version)


def read_run_file(output: OutputFolder) -> RunFile | None:
    """The folder's run file, or None. Raises ConfigError for one that cannot be read, and OSError where an object store
    cannot be reached.

    Without the local file, as in a copy from the Hub, the inputs count as moved: they lie in `ELSEWHERE`.
    """
    name = RUN_FILE
    try:
        content = read_json(output.store, name, FORMAT, MAX_BYTES)
        name = LOCAL_FILE
        if (local := _local_of(output, content)) is None:
            return read_run_file(output)
        name = RUN_FILE
        run = typed(RunFile, {"usage": {}, **content, "root": local.root, "command": local.command})
        shards = {name: local.shards.get(name) or _join(local.root, path) for name, path in run.shards.items()}
        return replace(run, shards=shards)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        if output.is_out_of_reach(error):
            raise
        is_other = isinstance(error, OtherFormatError)
        way_out = "go on with the version of recap-fast that wrote it" if is_other else "put back the file as it was"
        shown = output.store.shown(name)
        raise ConfigError(f"{shown} cannot be read ({error}): {way_out}, or use another --output.") from error


def read_run(output: OutputFolder, schemas: Collection[int] = READABLE_SCHEMAS) -> RunFile:
    """The run file. Raises ConfigError if the folder is not the output of a run, or its rows have the columns of none
    of these versions."""
    run = read_run_file(output)
    if run is None:
        raise ConfigError(f"{output.address} has no {RUN_FILE}: it is not the --output of a run.")
    if (schema := run.fingerprint.get("schema", SCHEMA_VERSION)) not in schemas:
        raise ConfigError(
            f"{output.address} has the columns of another version of recap-fast (schema {schema}, this one has "
            f"{SCHEMA_VERSION}): use the version that wrote it, or caption its images anew."
        )
    return run


def write_run_file(output: OutputFolder, run: RunFile, over: Versions) -> bool:
    """Writes both files, each whole or not at all, in place of these versions.

    Returns False if another process has written one of them since: then read them again. Raises RecapError if one
    cannot be written.
    """
    paths = {name: _below(run.root, url) for name, url in run.shards.items()}
    local = _Local(run.root, run.command, {name: run.shards[name] for name, path in paths.items() if path is None})
    if not _add_local(output, local, over):
        return False
    content = {name: value for name, value in asdict(run).items() if name not in ("root", "command")}
    content |= {"shards": {name: path or name for name, path in paths.items()}, "local": local.digest}
    return _write(output, RUN_FILE, content, over.run)


def update_run_file(output: OutputFolder, change: Callable[[RunFile], RunFile]) -> None:
    """Changes the run file, whoever else does so at the same time. Raises as `read_run` and `write_run_file` do."""

    def attempt() -> bool | None:
        versions = find_versions(output)  # before the file is read
        return write_run_file(output, change(read_run(output)), versions) or None

    retry_until(attempt, output)


def retry_until(attempt: Callable[[], T | None], output: OutputFolder) -> T:
    """What an attempt returns that is not None. Between attempts that other processes' writing has foiled it waits a
    little, longer each time. Raises RecapError after `NUM_ATTEMPTS`."""
    for number in range(NUM_ATTEMPTS):
        if (result := attempt()) is not None:
            return result
        time.sleep(random.uniform(0, min(0.01 * 2**number, LONGEST_PAUSE_S)))
    raise RecapError(f"{output.address}: other processes write its {RUN_FILE} again and again: start fewer at once.")


def _local_of(output: OutputFolder, content: Mapping[str, Any]) -> _Local | None:
    """The part of the local file that belongs to a run file with this content. None if another process has replaced
    that run file since it was read."""
    parts = _read_local(output)
    if "local" not in content:  # an earlier version wrote it
        return parts[-1]
    named = next((part for part in parts if part.digest == content["local"]), None)
    if named is None and read_json(output.store, RUN_FILE, FORMAT, MAX_BYTES) == content:  # it was changed by hand
        return parts[0]
    return named


def _read_local(output: OutputFolder) -> tuple[_Local, *tuple[_Other, ...]]:
    """The parts of the local file, the last one that was added first."""
    try:
        content = read_json(output.store, LOCAL_FILE, FORMAT, MAX_BYTES)
    except FileNotFoundError:
        return (_Local(),)
    return typed(_Local, content), *typed(_Others, {"others": [], **content}).others


def _add_local(output: OutputFolder, local: _Local, over: Versions) -> bool:
    """Makes a part of the local file safe until a run file in place of that version names it. False if another process
    has written since."""
    if over.local is None:
        return _write(output, LOCAL_FILE, asdict(local), None)
    try:
        last, *others = _read_local(output)
    except ValueError:  # damaged, or of another version: who may overwrite the folder comes here
        return _write(output, LOCAL_FILE, asdict(local), over.local)
    try:
        named = read_json(output.store, RUN_FILE, FORMAT, MAX_BYTES).get("local")
    except (OSError, ValueError):
        named = None
    others = [part for part in others if part.digest == named or part.over == over.run]
    if local.digest in (part.digest for part in (last, *others)):
        return True
    others.insert(0, _Other(last.root, last.command, last.shards, over.run))
    return _write(output, LOCAL_FILE, {**asdict(local), "others": [asdict(part) for part in others]}, over.local)


def _write(output: OutputFolder, name: str, fields: Mapping[str, Any], version: str | None) -> bool:
    data = (json.dumps({"format": FORMAT, **fields}, indent=1) + "\n").encode()
    try:
        if version is None:
            return output.store.create(name, data)
        return output.store.replace(name, data, version)
    except OSError as error:
        if output.is_out_of_reach(error):
            raise
        raise RecapError(
            f"{output.store.shown(name)} cannot be written ({error}): make room there, or give another --output."
        ) from error


def _below(root: str, url: str) -> str | None:
    """The path from the root to an address, '.' for the root itself; None if it does not lie below the root."""
    if url == root:
        return "."
    folder = root if root.endswith("/") else f"{root}/"
    return url.removeprefix(folder) if url.startswith(folder) else None


def _join(root: str, path: str) -> str:
    """The inverse of `_below`."""
    return root if path == "." else f"{root}{path}" if root.endswith("/") else f"{root}/{path}"
