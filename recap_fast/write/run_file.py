"""The run file: what all outputs in a folder have in common, and the shards of all runs into it.

Writes it and reads it back; a file that has another format or cannot be read is refused in a sentence. The run file may
be published. What belongs to this machine, the paths of inputs and the command, is beside it in the local file.
"""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from recap_fast.errors import ConfigError, RecapError
from recap_fast.records import ACCEPTABLE
from recap_fast.write.output_folder import LOCAL_FILE, RUN_FILE, OutputFolder
from recap_fast.write.typed_json import read_json, typed

T = TypeVar("T")
FORMAT = 4
ELSEWHERE = "/elsewhere"
"""Stands for the folder of the inputs if there is no local file."""
MAX_BYTES = 1 << 30
"""Largest run file that is read: it has some millions of shards."""
NUM_ATTEMPTS, LONGEST_PAUSE_S = 100, 2.0
"""Hundreds of processes of an array may begin, or end, at the same moment."""


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

    def __post_init__(self) -> None:
        """Raises ValueError for a name that would lead out of the output folder."""
        for name in self.shards:
            if {"", ".", ".."}.intersection(name.split("/")):
                raise ValueError(f"{name!r:.60} is not a shard's name")

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
    """The content of the local file."""

    root: str = ELSEWHERE
    command: str | None = None
    shards: Mapping[str, str] = field(default_factory=dict)
    """Name to URL of the shards that do not lie below the root."""


@dataclass(frozen=True, slots=True)
class Versions:
    """Which versions of the two files are there; None for one that is not."""

    run: str | None
    local: str | None


def find_versions(output: OutputFolder) -> Versions:
    """The versions as they are now. Files that are read later are of these or of newer ones."""
    run, local = (output.store.stat(name) for name in (RUN_FILE, LOCAL_FILE))
    return Versions(None if run is None else run.version, None if local is None else local.version)


def read_run_file(output: OutputFolder) -> RunFile | None:
    """The folder's run file, or None. Raises ConfigError for one that cannot be read.

    Without the local file, as in a copy from the Hub, the inputs count as moved: they lie in `ELSEWHERE`.
    """
    name = RUN_FILE
    try:
        content = read_json(output.store, name, FORMAT, MAX_BYTES)
        name = LOCAL_FILE
        local = _read_local(output)
        name = RUN_FILE
        run = typed(RunFile, {**content, "root": local.root, "command": local.command})
        shards = {name: local.shards.get(name) or _join(local.root, path) for name, path in run.shards.items()}
        return replace(run, shards=shards)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{output.store.shown(name)} cannot be read ({error}): put back the file as it was, or use another "
            "--output."
        ) from error


def read_run(output: OutputFolder) -> RunFile:
    """The run file. Raises ConfigError if the folder is not the output of a run."""
    run = read_run_file(output)
    if run is None:
        raise ConfigError(f"{output.address} has no {RUN_FILE}: it is not the --output of a run.")
    return run


def write_run_file(output: OutputFolder, run: RunFile, over: Versions) -> bool:
    """Writes both files, each whole or not at all, in place of these versions.

    Returns False if another process has written one of them since: then read them again. Raises RecapError if one
    cannot be written.
    """
    paths = {name: _below(run.root, url) for name, url in run.shards.items()}
    elsewhere = {name: run.shards[name] for name, path in paths.items() if path is None}
    known = _read_local(output) if over.local else _Local()
    # another process may be about to add these
    others = {name: url for name, url in known.shards.items() if name not in run.shards and run.shards}
    local = _Local(run.root, run.command, {**others, **elsewhere})
    content = {name: value for name, value in asdict(run).items() if name not in ("root", "command")}
    content["shards"] = {name: path or name for name, path in paths.items()}
    if (over.local is None or local != known) and not _write(output, LOCAL_FILE, asdict(local), over.local):
        return False
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


def _read_local(output: OutputFolder) -> _Local:
    try:
        return typed(_Local, read_json(output.store, LOCAL_FILE, FORMAT, MAX_BYTES))
    except FileNotFoundError:
        return _Local()


def _write(output: OutputFolder, name: str, fields: Mapping[str, Any], version: str | None) -> bool:
    data = (json.dumps({"format": FORMAT, **fields}, indent=1) + "\n").encode()
    try:
        if version is None:
            return output.store.create(name, data)
        return output.store.replace(name, data, version)
    except OSError as error:
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


def as_json(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint as it is read back: tuples become lists."""
    fields: dict[str, Any] = json.loads(json.dumps(dict(fingerprint)))
    return fields


def refuse_other_fingerprint(
    output: OutputFolder, old: Mapping[str, Any], new: Mapping[str, Any], accepted: Sequence[str] = ()
) -> None:
    """Raises ConfigError, naming what differs, if two fingerprints differ in a field that is not accepted."""
    fields = as_json(new)
    differing = [name for name in sorted({*old, *fields}) if old.get(name) != fields.get(name) and name not in accepted]
    if not differing:
        return
    lines = (f"  {name}: {old.get(name)!r} there, {fields.get(name)!r} now" for name in differing)
    way_out = "Give another --output, the settings of that run, or --overwrite to remove its output."
    if set(differing) <= set(ACCEPTABLE):
        way_out = f"Go on with --accept-changed {','.join(differing)}, or give another --output."
    raise ConfigError(
        f"{output.address} holds the output of a run with other settings, and mixing both would be a mistake:\n"
        + "\n".join(lines)
        + f"\n{way_out}"
    )
