"""Where an output lies: a local folder or a prefix of an object store, behind one small interface.

Files have names, '/'-separated paths below the root. Each is whole or not there, whoever writes it and whenever that
is interrupted. What goes wrong is an OSError whose text says what to do with which file.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a store, as it was when it was looked at."""

    name: str
    size_bytes: int
    version: str
    """Another one whenever the file is written again."""
    modified_s: float
    """When it was written, by the store's clock: seconds since 1970."""

    def check_size(self, max_bytes: int) -> None:
        """Raises ValueError if it is larger."""
        if self.size_bytes > max_bytes:
            raise ValueError(f"it has {self.size_bytes:,} bytes, more than the {max_bytes:,} that make sense")


class Store(Protocol):
    """Files by name. Any thread may use it, and it can be pickled: another machine opens it again."""

    @property
    def address(self) -> str:
        """The root as people know it: a local path as it was given, or a URL without secrets."""

    @property
    def scratch(self) -> Path:
        """A local folder for what only this machine needs to know of the output; it may not be there yet."""

    def shown(self, name: str) -> str:
        """The whole address of a file."""

    def make_root(self) -> None:
        """Makes the root, if the store has folders, and removes what dead processes left unfinished. Raises OSError."""

    def stat(self, name: str) -> StoredFile | None:
        """The file; None if it is not there, or if something else has its name."""

    def read(self, name: str, max_bytes: int) -> tuple[bytes, str]:
        """The content and the version of a small file. Raises FileNotFoundError, and ValueError if it is too large."""

    def put(self, name: str, content: bytes) -> None:
        """Writes a file whole, replacing what was there."""

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file if there is none of that name; False if there is one, unless it has this very content."""

    def replace(self, name: str, content: bytes, version: str) -> bool:
        """Writes a file if the one that is there still has this version; False, if not."""

    def draft(self, name: str) -> AbstractContextManager[Path]:
        """A new local path, to write the content of a file of that folder to; what is there at the end is removed."""

    def publish(self, draft: Path, name: str) -> Path:
        """Makes a draft the file of that name, replacing what was there. Returns where its content can be read locally
        until the draft ends."""

    def local(self, name: str) -> AbstractContextManager[Path]:
        """A local path with the content of a file meanwhile. Raises FileNotFoundError."""

    def list(self, folder: str = "") -> Iterator[StoredFile]:
        """All files below a folder, sorted by name; of the root without a name. Drafts are none."""

    def delete(self, names: Iterable[str]) -> None:
        """Removes files, and folders that are empty then. Those that are not there are no fault."""


def has_any(store: Store, folder: str) -> bool:
    """Whether a folder has a file."""
    return next(iter(store.list(folder)), None) is not None
