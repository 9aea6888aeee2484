"""Files that are either whole or not there: temporary file, fsync, rename, fsync of the folder.

A temporary name tells which process of which machine made it, so that what a killed process left behind can be removed
without touching the files of one that runs.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

logger = logging.getLogger(__name__)

_LEFTOVER = re.compile(r"\.(?P<owner>[^~]+~\d+)~[0-9a-f]+\.tmp")
_TOKEN = secrets.token_hex(4)
_COUNTER = itertools.count()
_FORGOTTEN_S = 24 * 3600.0


@functools.cache
def _machine() -> str:
    """Host name and process namespace: two containers of one host may both have a process 1."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        namespace = ""
    return re.sub(r"[^A-Za-z0-9-]", "", f"{socket.gethostname()[:60]}-{namespace}")


def owner() -> str:
    """This process, as temporary names spell it: `<machine>~<process id>`."""
    return f"{_machine()}~{os.getpid()}"


def is_alive(name: str, elsewhere: bool = True) -> bool:
    """Whether the process that `owner` named may still run; `elsewhere` is the answer for one of another machine."""
    machine, _, process = name.rpartition("~")
    if machine != _machine():
        return elsewhere
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def make_folder(folder: Path, within: Path | None = None) -> None:
    """Makes the folder and its parents, also while another process removes empty ones.

    `within`: the folder or one above it that is there already. FileNotFoundError means that it is gone.
    """
    missing = [folder]
    if within is not None:
        above = [folder, *folder.parents]
        missing = above[: above.index(within)][::-1]
    for _ in range(10):
        with contextlib.suppress(FileNotFoundError):
            for each in missing:
                _make_one(each, within is None)
            return
        if within is not None and not within.exists():
            break
    _make_one(folder, within is None)


def _make_one(folder: Path, parents: bool) -> None:
    try:
        folder.mkdir(parents=parents, exist_ok=True)
    except FileExistsError as error:
        text = "there is a file where a folder belongs, move it elsewhere"
        raise NotADirectoryError(errno.ENOTDIR, text, str(folder)) from error


def temporary_path(path: Path, within: Path | None = None) -> Path:
    """A name beside `path`, in a folder made if need be, that no other process or call gets."""
    make_folder(path.parent, within)
    return path.parent / f".{owner()}~{_TOKEN}{next(_COUNTER):08x}.tmp"


@contextlib.contextmanager
def temporary_file(path: Path, within: Path | None = None) -> Iterator[Path]:
    """Gives a path to write to, as `temporary_path`; at the end the file is removed, unless it was published."""
    temporary = temporary_path(path, within)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Gives a whole file its final name, replacing what was there; a folder of that name is moved out of the way."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    try:
        temporary.replace(path)
    except IsADirectoryError:
        aside = path.with_name(f"{path.name}.moved-{time.time_ns()}")
        logger.warning("%s is a folder where a file belongs: it is now %s", path, aside.name)
        path.rename(aside)
        temporary.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def replacing(path: Path, within: Path | None = None) -> Iterator[Path]:
    """Gives a temporary file's path to write to, and at the end its final name, replacing what was there.

    A crash leaves the old file or the new one; where the writing fails the temporary one is removed.
    """
    with temporary_file(path, within) as temporary:
        yield temporary
        publish(temporary, path)


def atomic_write(path: Path, content: bytes, within: Path | None = None) -> None:
    """Writes a file that readers see whole or not at all. An OSError names a file, also that of a full disk."""
    with replacing(path, within) as temporary:
        try:
            temporary.write_bytes(content)
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename or str(path)) from error


def sha256_of(file: Path | BufferedReader) -> str:
    """Of a file's content, in hex; of an open one from where it stands."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return sha256_of(opened)
    return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(folder: Path) -> int:
    """Removes, in the folder and below, the temporary files of dead processes; returns how many.

    Those of another machine go when they are a day old: no file is written for that long.
    """
    removed = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            match = _LEFTOVER.fullmatch(name)
            if match and _is_forgotten(Path(parent, name), match["owner"]):
                Path(parent, name).unlink(missing_ok=True)
                removed += 1
    return removed


def is_temporary(name: str) -> bool:
    """Whether a file name was made by `temporary_path`."""
    return _LEFTOVER.fullmatch(name) is not None


def _is_forgotten(path: Path, owner_name: str) -> bool:
    if owner_name.startswith(f"{_machine()}~"):
        return not is_alive(owner_name)
    try:
        return time.time() - path.stat().st_mtime > _FORGOTTEN_S
    except FileNotFoundError:
        return False


def sync_folder(folder: Path) -> None:
    """Brings a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems have no fsync for folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
