"""A prefix of a bucket as a store. A PUT is atomic, a folder does not exist, and an answer may be lost on its way.

A lost answer is no failure: where a file is there already that should not be, its content tells whether it is ours.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from recap_fast import atomic
from recap_fast.addresses import public_url
from recap_fast.errors import ConfigError
from recap_fast.store.connection import AZURE, READ_TIMEOUT_S, connect, place_of
from recap_fast.store.failures import is_without_bucket
from recap_fast.store.persistence import persistently
from recap_fast.store.store import StoredFile
from recap_fast.store.transfer import Download, checked_upload

T = TypeVar("T")

LISTED_AT_ONCE = DELETED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class CloudStore:
    """Files of an object store whose names begin with a prefix. `url` is an s3://, gs:// or az:// URL.

    Raises ConfigError if it has a login, a signature, a query, or a path that obstore cannot use. What is not there any
    more, denied or unreachable after two minutes of tries is an OSError.
    """

    url: str
    read_timeout_s: float = READ_TIMEOUT_S

    def __post_init__(self) -> None:
        path = place_of(self.url).path
        if public_url(self.url) != self.url:
            raise ConfigError(f"{public_url(self.url)} has a query: remove the '?' and what follows it.")
        if path and {"", ".", ".."}.intersection(path.split("/")):
            raise ConfigError(f"{self.url} has '//', '.' or '..' in its path: write the path without them.")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    @property
    def address(self) -> str:
        return self.url

    @property
    def scratch(self) -> Path:
        """In the folder for temporary files that TMPDIR names. Its parent is this user's alone, and is made here."""
        return _own_folder() / hashlib.sha256(self.url.encode()).hexdigest()[:16]

    def shown(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def make_root(self) -> None:
        """Checks that the bucket is there and can be listed; a folder needs no making."""
        self.scratch.mkdir(exist_ok=True)
        atomic.remove_leftovers(self.scratch)
        self._try("", lambda bucket, path: next(iter(bucket.list(path)), None))

    def stat(self, name: str) -> StoredFile | None:
        try:
            return _stored(name, self._try(name, lambda bucket, path: bucket.head(path)))
        except FileNotFoundError:
            return None

    def read(self, name: str, max_bytes: int) -> tuple[bytes, str]:
        def get(bucket: Any, path: str) -> tuple[bytes, str]:
            result = bucket.get(path)
            found = _stored(name, result.meta)
            found.check_size(max_bytes)
            return bytes(result.bytes()), found.version

        return self._try(name, get)

    def put(self, name: str, content: bytes) -> None:
        self._try(name, lambda bucket, path: bucket.put(path, content, use_multipart=False))

    def create(self, name: str, content: bytes) -> bool:
        def put(bucket: Any, path: str) -> bool:
            try:
                return _put_if(bucket, path, content, "create")
            except FileNotFoundError as error:
                if is_without_bucket(error):
                    raise
                raise ConnectionError("it is there and is not there") from None  # somebody writes it just now

        return self._try(name, put)

    def replace(self, name: str, content: bytes, version: str) -> bool:
        """Also True where the file has this very content, as it has when the answer was lost."""

        def put(bucket: Any, path: str) -> bool:
            found = bucket.head(path)
            if _stored(name, found).version != version:
                return _is_there(bucket, path, content)
            condition = {key: found[key] for key in ("e_tag", "version") if found[key] is not None}
            return _put_if(bucket, path, content, condition)

        try:
            return self._try(name, put)
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def draft(self, name: str) -> Iterator[Path]:
        with _naming_the_disk(), atomic.temporary_file(self.scratch / "drafts" / name) as path:
            yield path

    def publish(self, draft: Path, name: str) -> Path:
        self._try(name, checked_upload(draft))
        return draft

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with atomic.temporary_file(self.scratch / "copies" / name) as path:
            with _naming_the_disk(), path.open("wb") as file:
                download = Download(file)
                self._try(name, download.copy_rest, download.tell)
            yield path

    def list(self, folder: str = "") -> Iterator[StoredFile]:
        files = self._pages(folder)
        if place_of(self.url).kind == AZURE:  # with a hierarchical namespace its order is another one
            files = iter(sorted(files, key=lambda file: file.name))
        return files

    def delete(self, names: Iterable[str]) -> None:
        left = iter(names)
        while batch := list(itertools.islice(left, DELETED_AT_ONCE)):
            paths = [place_of(self.shown(name)).path for name in batch]
            self._try("", functools.partial(_delete, paths=paths))

    def _pages(self, folder: str) -> Iterator[StoredFile]:
        """The files in the order of the store. After a failure the listing goes on behind the last one."""
        root, here = place_of(self.url).path, place_of(self.shown(folder)).path
        pages: Any = None
        last: str | None = None

        def next_page(bucket: Any, path: str) -> Sequence[Any] | None:
            nonlocal pages
            pages = pages or iter(bucket.list(path, offset=last, chunk_size=LISTED_AT_ONCE))
            try:
                return next(pages, None)
            except BaseException:
                pages = None
                raise

        while page := self._try(folder, next_page):
            for found in page:
                last = found["path"]
                if last != here:  # else it is the mark of a folder that some tools make
                    yield _stored(found["path"].removeprefix(f"{root}/" if root else ""), found)

    def _try(self, name: str, action: Callable[[Any, str], T], progress: Callable[[], int] = lambda: 0) -> T:
        """What an action on the bucket and a file's path in it returns; see `persistently`."""

        def act() -> T:
            bucket, path = connect(self.shown(name), self.read_timeout_s)
            return action(bucket, path)

        return persistently(act, self.shown(name), progress)


def _put_if(bucket: Any, path: str, content: bytes, condition: Any) -> bool:
    """Writes a file on a condition; whether it has this content then. Raises FileNotFoundError if it has none."""
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    try:
        bucket.put(path, content, mode=condition, use_multipart=False)
    except (AlreadyExistsError, PreconditionError):
        return _is_there(bucket, path, content)
    return True


def _is_there(bucket: Any, path: str, content: bytes) -> bool:
    found = bucket.get(path)
    return found.meta["size"] == len(content) and bytes(found.bytes()) == content


def _delete(bucket: Any, _: str, paths: Sequence[str]) -> None:
    try:
        bucket.delete(paths)
    except FileNotFoundError as error:  # Google and Azure say so of one of them, and may stop there
        if is_without_bucket(error):
            raise
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                bucket.delete(path)


def _stored(name: str, found: Any) -> StoredFile:
    version = found["e_tag"] or found["version"] or found["last_modified"].isoformat()
    # listings of Azure have it without quotes
    return StoredFile(name, found["size"], version.strip('"'), found["last_modified"].timestamp())


def _own_folder() -> Path:
    """This user's folder for temporary files. Raises PermissionError where another user has made it."""
    folder = Path(tempfile.gettempdir(), f"recap-fast-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(f"{folder} is no folder of yours: remove it, or set TMPDIR to another folder")
    if status.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


@contextlib.contextmanager
def _naming_the_disk() -> Iterator[None]:
    """Says of a full disk how to use another one."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and os.strerror(errno.ENOSPC) not in str(error):
            raise
        folder = tempfile.gettempdir()
        raise OSError(errno.ENOSPC, "the disk is full, set TMPDIR to a folder on a larger one", folder) from error
