"""A local folder as a store: temporary file, fsync, rename. Once its root is gone, nothing makes it again."""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from recap_fast import atomic
from recap_fast.store.store import StoredFile


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A folder on this machine, or on a file system that machines share."""

    root: Path

    @property
    def address(self) -> str:
        return str(self.root)

    @property
    def scratch(self) -> Path:
        return self.root

    def shown(self, name: str) -> str:
        return str(self.root / name)

    def make_root(self) -> None:
        atomic.make_folder(self.root)
        atomic.remove_leftovers(self.root)

    def stat(self, name: str) -> StoredFile | None:
        try:
            status = (self.root / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise
        return _stored(name, status) if stat.S_ISREG(status.st_mode) else None

    def read(self, name: str, max_bytes: int) -> tuple[bytes, str]:
        path = self.root / name
        if not stat.S_ISREG(path.stat().st_mode):  # before it is opened, which may hang
            raise ValueError("it is not a regular file")
        with path.open("rb") as file:
            found = _stored(name, os.fstat(file.fileno()))
            found.check_size(max_bytes)
            return file.read(), found.version

    def put(self, name: str, content: bytes) -> None:
        atomic.atomic_write(self.root / name, content, self.root)

    def create(self, name: str, content: bytes) -> bool:
        with self._locked():
            path = self.root / name
            if os.path.lexists(path):
                return path.is_file() and path.read_bytes() == content
            self.put(name, content)
        return True

    def replace(self, name: str, content: bytes, version: str) -> bool:
        with self._locked():
            found = self.stat(name)
            if found is None or found.version != version:
                return False
            self.put(name, content)
        return True

    def draft(self, name: str) -> AbstractContextManager[Path]:
        return atomic.temporary_file(self.root / name, self.root)

    def publish(self, draft: Path, name: str) -> Path:
        path = self.root / name
        atomic.publish(draft, path)
        return path

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        path = self.root / name
        path.stat()
        yield path

    def list(self, folder: str = "") -> Iterator[StoredFile]:
        yield from self._below(self.root / folder, f"{folder}/" if folder else "")

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            path = self.root / name
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                path.unlink()
            for parent in path.parents:
                if parent == self.root:
                    break
                try:
                    parent.rmdir()
                except OSError:  # it has other files, or is gone
                    break

    def _below(self, folder: Path, prefix: str) -> Iterator[StoredFile]:
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in sorted(entries, key=lambda entry: f"{entry.name}/" if _is_folder(entry) else entry.name):
            if _is_folder(entry):
                yield from self._below(Path(entry.path), f"{prefix}{entry.name}/")
            elif not atomic.is_temporary(entry.name):
                try:
                    status = entry.stat()
                except OSError:  # gone since, or a link that leads nowhere
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield _stored(f"{prefix}{entry.name}", status)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps other processes from writing to the folder on a condition meanwhile."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some network file systems cannot lock a folder
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _stored(name: str, status: os.stat_result) -> StoredFile:
    version = f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"
    return StoredFile(name, status.st_size, version, status.st_mtime)
