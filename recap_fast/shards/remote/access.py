"""Where bytes lie: absolute local paths, object stores (s3://, gs://, az://), and fsspec's other URLs (https://, hf://).

In go the addresses that users write; out come file systems, and what is read from them: tried again where that may
help, and given up where nothing comes.
"""

import functools
import io
import logging
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from recap_fast.addresses import is_remote, public_url, scrub
from recap_fast.errors import ConfigError
from recap_fast.records import Identity
from recap_fast.shards.patience import patiently, pause, read_timeout, unwatched
from recap_fast.shards.remote.failures import ReplacedError, failure_of
from recap_fast.shards.remote.failures import network_errors as network_errors
from recap_fast.store.connection import SCHEMES, connect, is_cloud

T = TypeVar("T")
logger = logging.getLogger(__name__)

NUM_ATTEMPTS = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
PACKAGES = {
    **dict.fromkeys(SCHEMES, ("obstore", "'recap-fast[cloud]'")),
    **dict.fromkeys(("http", "https"), ("aiohttp", "aiohttp")),
    "hf": ("huggingface_hub", "huggingface_hub"),
}
"""What each kind of URL needs, as Python imports it and as pip installs it."""
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "commit_hash", "LastModified", "last_modified"),
    *("Last-Modified", "updated", "mtime", "created"),
)
"""Of a remote file's info, the best first."""


def absolute(address: str) -> str:
    """The one spelling of an address: an absolute local path, or a URL without a slash at its end."""
    address = address.removeprefix("file://")
    if is_remote(address):
        return address.rstrip("/") if not address.endswith("://") else address
    return os.path.abspath(Path(address).expanduser())  # noqa: PTH100 - resolve() would follow links


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it. Raises ConfigError where its package is not installed."""
    if is_cloud(url):
        connect(url, read_timeout())  # it may be refused
        from recap_fast.shards.remote.bucket import ObjectFiles

        scheme, _, path = url.partition("://")
        return ObjectFiles(scheme), path.rstrip("/")
    protocol = url.split("://", 1)[0].rsplit("::", 1)[-1]
    try:
        with unwatched():  # imports may take long
            return _open_system(url)
    except ImportError as error:
        package = PACKAGES.get(protocol, ("", ""))[1]
        hint = f"run `pip install {package}`" if package else f"install its package ({error})"
        needs = f"{public_url(url)} needs a package for {protocol}:// that is not installed"
        raise ConfigError(f"{needs}: {hint}.") from error
    except ValueError as error:
        text = scrub(str(error))
        raise ConfigError(f"{public_url(url)} is of a kind that fsspec does not know: {text}.") from error


def _open_system(url: str) -> tuple[Any, str]:
    import fsspec

    if not url.startswith(("http://", "https://")):
        system, path = fsspec.core.url_to_fs(url)
        return system, path
    from recap_fast.shards.remote.http import http_file_system

    return http_file_system(read_timeout()), url


class Retries:
    """Counts the tries of one thing, and waits between them: `NUM_ATTEMPTS` without progress, or two that hung."""

    def __init__(self, url: str):
        self._shown = public_url(url)
        self._count, self._spent_s, self._begun = 0, 0.0, time.monotonic()

    def wait_after(self, error: Exception, *, progressed: bool = False) -> None:
        """Returns when it is time for another try.

        Raises FileNotFoundError, PermissionError, or ConnectionError where none may help; StoppedError.
        """
        failure = failure_of(error)
        if failure.kind == "missing":
            raise FileNotFoundError(failure.text) from error
        if failure.kind == "denied":
            raise PermissionError(failure.text) from error
        if failure.kind != "passing":
            raise OSError(failure.text) from error
        self._count = 1 if progressed else self._count + 1
        self._spent_s = (0.0 if progressed else self._spent_s) + time.monotonic() - self._begun
        if self._count >= NUM_ATTEMPTS or (self._count > 1 and self._spent_s > read_timeout()):
            raise ConnectionError(f"{failure.text}, tried {self._count} times") from error
        logger.warning("%s: %s; trying again", self._shown, failure.text)
        backoff_s = min(FIRST_PAUSE_S * 2.0 ** (self._count - 1), LONGEST_PAUSE_S)
        pause(max(backoff_s, min(failure.retry_after_s, read_timeout())))
        self._begun = time.monotonic()


def persistently(action: Callable[[], T], url: str) -> T:
    """What an action on a URL returns; it is tried again where that may help.

    Raises FileNotFoundError, PermissionError, ConnectionError where it cannot be reached, other OSErrors, StoppedError;
    their texts say what the server answered.
    """
    retries = Retries(url)
    while True:
        try:
            return patiently(action)
        except network_errors() as error:
            retries.wait_after(error)


def exists(url: str) -> bool:
    """Whether a remote file or folder is there. Raises as `persistently` does, but no FileNotFoundError."""
    system, path = file_system(url)
    try:
        persistently(lambda: system.info(path), url)
    except FileNotFoundError:
        return False
    return True


def version_of(info: Mapping[str, Any]) -> Identity:
    """Of a remote file, from what its file system says of it."""
    version = next((info[n] for n in _VERSIONS if info.get(n)), "unknown")
    if isinstance(version, datetime):  # of a memory:// file `info` has this, and `ls` the number
        version = version.timestamp()
    return Identity(int(info.get("size") or 0), str(version))


def remote_identity(url: str) -> Identity:
    """Of a remote file as it is now. Raises as `persistently` does."""
    system, path = file_system(url)

    def info() -> Mapping[str, Any]:
        system.invalidate_cache(path)
        found: Mapping[str, Any] = system.info(path)
        return found

    return version_of(persistently(info, url))


def read_file(url: str, limit: int) -> tuple[bytes | None, Identity]:
    """The content of a small remote file, None where it is over `limit` bytes, and which version it is of.

    Raises as `persistently` does.
    """
    system, path = file_system(url)
    if is_cloud(url):
        head, info = persistently(lambda: system.read(path, limit), url)
        return head, version_of(info)
    found = remote_identity(url)
    if found.size_bytes > limit:
        return None, found
    content: bytes = persistently(lambda: system.cat_file(path), url)
    return content, found


class RemoteFile(io.RawIOBase):
    """A remote file that is read in places, as Parquet is. Each read is tried again, but of one version only.

    Raises OSError where the file was replaced since it was opened, and as `persistently` does.
    """

    def __init__(self, url: str):
        self._url, (self._system, self._path) = url, file_system(url)
        self._info = persistently(lambda: self._system.info(self._path), url)
        self._size = self._info.get("size")
        if self._size is None:
            raise OSError("its server does not say how large it is")
        self._position = 0
        self._file: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._size - self._position)
        if size <= 0:
            return 0
        content = persistently(functools.partial(self._read, self._position, size), self._url)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _read(self, position: int, size: int) -> bytes:
        file, self._file = self._file, None  # one that fails or hangs is not used again
        if file is None:
            file = self._open()
        file.seek(position)
        content: bytes = file.read(size)
        if len(content) < size:
            raise EOFError(f"the connection ended after {position + len(content):,} bytes")
        self._file = file
        return content

    def _open(self) -> Any:
        if is_cloud(self._url):
            return self._system.open(self._path, info=self._info)
        now = self._system.info(self._path)
        if version_of(now) != version_of(self._info):
            raise ReplacedError
        if self._url.startswith(("http://", "https://")):
            from recap_fast.shards.remote.http import validator

            tag = validator(self._info)
            tied = {"headers": {"If-Match": tag}} if tag and tag.startswith('"') else {}
            return self._system.open(self._path, "rb", size=self._size, **tied)
        return self._system.open(self._path, "rb")
