"""The folder that an export writes to: which of its files are ours, and which shards are done.

Beside what was asked for, it has a hidden folder: `.recap-fast/<kind>/settings.json`, and for each shard a record of
the files that were made of it. A record is written before its files get their names: so a file that is as a record says
is ours, whenever the program was killed. All other files are left alone, unless the user lets us overwrite them.
"""

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recap_fast.atomic import atomic_write, make_folder, publish, remove_leftovers, sync_folder, temporary_path
from recap_fast.defaults import EXPORT_FOLDER
from recap_fast.errors import ConfigError, RecapError

FORMAT = 1
MAX_NAME_BYTES = 255
"""Of a file: no file system in common use takes more."""
_FEW_FILES = 64
"""Up to so many files are synced one by one; more of them all at once."""


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What was made of a shard."""

    version: str
    """Digest of the captions and settings that it was made of."""
    counts: Mapping[str, int]
    files: Mapping[str, str]
    """Size and mtime of each file, by its name below the target."""
    before: Mapping[str, str] = field(default_factory=dict)
    """The same of files that were there when these were made: until each is replaced or removed, they are ours."""
    format: int = FORMAT

    def has(self, name: str, version: str | None) -> bool:
        """Whether a file of this size and mtime is one that was made of the shard."""
        return version is not None and version in (self.files.get(name), self.before.get(name))


@dataclass(slots=True)
class Draft:
    """The files of a shard while they are made."""

    target: "Target"
    shard: str
    version: str
    counts: Counter[str] = field(default_factory=Counter)
    """What the files have; told at the end of the export."""
    earlier: ShardRecord | None = None
    """What was made of the shard before."""
    _paths: dict[str, Path] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        """A path to write the content of a file to, which gets its name when all are written.

        Raises RecapError where nothing can be written under the name, and where it has a file that must stay.
        """
        path = self.target.place(name)
        if name in self._paths:
            raise RecapError(f"{path} would be written twice: two samples of {self.shard} have its name.")
        self.target.check_free(name, self.earlier)
        self._paths[name] = temporary_path(path)
        return self._paths[name]

    def size(self, name: str) -> int:
        """Size of a written file in bytes."""
        return self._paths[name].stat().st_size


class Target:
    """A local folder with the exports of one kind."""

    def __init__(
        self,
        folder: Path,
        kind: str,
        settings: Mapping[str, Any],
        overwrite: bool = False,
        inputs: Collection[Path] = (),
    ):
        """`inputs` are files that nothing replaces."""
        self.folder, self._kind, self._settings, self._overwrite = folder, kind, settings, overwrite
        found = (_stat(path, follow_symlinks=follows) for path in inputs for follows in (True, False))
        self._inputs = {(file.st_dev, file.st_ino) for file in found if file is not None}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within this no other export writes to the folder, which is made. Raises RecapError where one does."""
        path = self._below(EXPORT_FOLDER, "lock")
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):  # some network file systems have none
                os.close(descriptor)
                raise RecapError(
                    f"another export is writing to {self.folder}: wait until it ends, or give another --target."
                ) from error
        try:
            yield
        finally:
            os.close(descriptor)

    def open(self) -> None:
        """Makes the folder. Raises ConfigError if it has an export of this kind with other settings."""
        path = self._below(EXPORT_FOLDER, self._kind, "settings.json")
        there = _read_json(path)
        wanted = {"format": FORMAT, **self._settings}
        has_export = next(self._below(EXPORT_FOLDER, self._kind, "shards").rglob("*.json"), None) is not None
        if there is not None and there != wanted and has_export and not self._overwrite:
            names = sorted(name for name in {*there, *wanted} if there.get(name) != wanted.get(name))
            lines = (f"  {name}: {there.get(name)!r} there, {wanted.get(name)!r} now" for name in names)
            raise ConfigError(
                f"{self.folder} holds an export with other settings, and mixing both would be a mistake:\n"
                + "\n".join(lines)
                + "\nGive another --target, the settings of that export, or --overwrite to write it anew."
            )
        remove_leftovers(self.folder)
        if there != wanted:
            atomic_write(path, (json.dumps(wanted, indent=1) + "\n").encode())

    def record(self, shard: str) -> ShardRecord | None:
        """What was made of a shard so far; None if nothing was, or if its record is damaged."""
        content = _read_json(self._record_path(shard))
        try:
            return None if content is None else ShardRecord(**content)
        except TypeError:
            return None

    def made(self, shard: str) -> list[str]:
        """The names of the files that were made of a shard."""
        record = self.record(shard)
        return [] if record is None else [*record.files]

    def done(self, shard: str, version: str) -> ShardRecord | None:
        """The record of a shard of which this version is there, whole, and nothing of another one; else None."""
        record = self.record(shard)
        is_whole = record is not None and record.version == version and self._left_of(record) == record.files
        return record if is_whole else None

    @contextlib.contextmanager
    def draft(self, shard: str, version: str) -> Iterator[Draft]:
        """The files of a shard: at the end of the block they are all there, or, if it raises, none of them."""
        draft = Draft(self, shard, version, earlier=self.record(shard))
        try:
            yield draft
            self._commit(draft)
        finally:
            for path in draft._paths.values():
                path.unlink(missing_ok=True)

    def place(self, name: str) -> Path:
        """Where a file lies, by its '/'-separated name. Raises RecapError where none can lie in the target."""
        parts = name.split("/")
        if {"", ".", ".."}.intersection(parts) or "\0" in name or parts[0] == EXPORT_FOLDER:
            raise RecapError(f"{name!r:.200} is not a name for a file below --target {self.folder}.")
        if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts):
            raise RecapError(
                f"{name!r} is too long for the name of a file: {MAX_NAME_BYTES} bytes are the most. Rename the image, "
                "run again, then export again."
            )
        return self._below(*parts)

    def _below(self, *parts: str) -> Path:
        """A path in the target. Raises RecapError where it leads through a symbolic link."""
        path = self.folder
        for part in parts[:-1]:
            path /= part
            if path.is_symlink():
                raise RecapError(
                    f"{path} is a symbolic link, and nothing is written through it: give another --target."
                )
        return path / parts[-1]

    def check_free(self, name: str, record: ShardRecord | None) -> None:
        """Raises ConfigError where the name has a folder, an input, or a file of others that we may not overwrite."""
        path = self.folder / name
        there = _stat(path)
        if there is None:
            return
        if stat.S_ISDIR(there.st_mode):
            raise ConfigError(f"{path} is a folder, and a file belongs there: move it away, or give another --target.")
        if (there.st_dev, there.st_ino) in self._inputs:
            raise ConfigError(f"{path} is an input of the run, and inputs are not replaced: give another --target.")
        if self._overwrite or (record is not None and record.has(name, _version(path))):
            return
        known = record is not None and (name in record.files or name in record.before)
        what = "it was changed since this export wrote it" if known else "this export did not write it"
        raise ConfigError(
            f"{path} is there already, and {what}: move it away, give another --target, or --overwrite to replace it."
        )

    def _record_path(self, shard: str) -> Path:
        return self._below(EXPORT_FOLDER, self._kind, "shards", *f"{shard}.json".split("/"))

    def _left_of(self, record: ShardRecord) -> dict[str, str]:
        """Those of a record's files that are there and as they were made, of either version."""
        found = {name: _version(self.folder / name) for name in {**record.before, **record.files}}
        return {name: version for name, version in found.items() if version and record.has(name, version)}

    def _commit(self, draft: Draft) -> None:
        for name in draft._paths:
            self.check_free(name, draft.earlier)  # again: it took a while to write them
        before = {} if draft.earlier is None else self._left_of(draft.earlier)
        files = {name: _version(path) or "" for name, path in draft._paths.items()}
        record = ShardRecord(draft.version, dict(draft.counts), files, before)
        many = len(files) > _FEW_FILES
        if many:
            os.sync()
        atomic_write(self._record_path(draft.shard), json.dumps(asdict(record)).encode())
        for name, path in draft._paths.items():
            if many:
                path.replace(self.folder / name)
            else:
                publish(path, self.folder / name)
        if many:
            for folder in {(self.folder / name).parent for name in files}:
                sync_folder(folder)
        for name, version in before.items():
            if name not in files and _version(self.folder / name) == version:
                (self.folder / name).unlink()


def _version(path: Path) -> str | None:
    """Size and mtime (ns since 1970) of a file; None where none is."""
    found = _stat(path)
    return None if found is None else f"{found.st_size}:{found.st_mtime_ns}"


def _stat(path: Path, *, follow_symlinks: bool = False) -> os.stat_result | None:
    """None where nothing is."""
    try:
        return path.stat(follow_symlinks=follow_symlinks)
    except OSError:
        return None


def _read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no file, or a damaged one."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
