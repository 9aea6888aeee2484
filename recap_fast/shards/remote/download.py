"""Remote files spooled to a local one without a name, which vanishes with its last descriptor, even when the process is
killed. TMPDIR says where; that disk is never filled.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

from recap_fast.addresses import public_url
from recap_fast.errors import ShardError
from recap_fast.records import Identity
from recap_fast.shards.patience import patience, patiently
from recap_fast.shards.remote.access import Retries, file_system, version_of
from recap_fast.shards.remote.failures import ReplacedError, failure_of, network_errors
from recap_fast.store.connection import is_cloud

logger = logging.getLogger(__name__)

CHUNK_BYTES = 8 << 20
SMALLEST_CHUNK_BYTES = 256 << 10
"""What is read at once where a larger chunk has not come in time: the connection may be slow."""
MAX_RESTARTS = 3
"""A file that is replaced again and again while it is read is given up after so many."""
RESERVED_BYTES = 1 << 30
"""Of the disk that remote files are spooled to, so much stays free, or a twentieth where that is less."""


class NoRoomError(ShardError):
    """The disk has too little room."""


def has_room(num_bytes: float) -> bool:
    """Whether the disk has room for so many bytes more."""
    free, reserved = _disk()
    return num_bytes <= free - reserved


def _disk() -> tuple[int, int]:
    """Bytes that are free where remote files are spooled to, and how many of them stay so."""
    disk = shutil.disk_usage(tempfile.gettempdir())
    return disk.free, min(RESERVED_BYTES, disk.total // 20)


class Spooled(NamedTuple):
    """A remote file that is a local one now."""

    file: IO[bytes]
    """Close it to free the space."""
    version: Identity | None
    """Of the content; None where the server does not tell."""


def spool(url: str, should_stop: Callable[[], bool] = lambda: False) -> Spooled:
    """The content of a remote file, of one version, as a local one.

    A dropped connection goes on from where it broke; where the file was replaced meanwhile, from its start.
    Raises ShardError when that fails; NoRoomError where the disk is too small, before the download if the size is
    known; StoppedError soon after `should_stop` says so.
    """
    local = tempfile.TemporaryFile(prefix="recap-fast-")  # noqa: SIM115 - the caller closes it
    try:
        with patience(should_stop=should_stop):
            version = _download(url, _Spool(local))
    except BaseException:
        local.close()
        raise
    local.seek(0)
    return Spooled(local, version)


def _download(url: str, sink: "_Spool") -> Identity | None:
    system, path = file_system(url)
    download: Any = _Download(system, path, url, sink)
    if is_cloud(url):
        from recap_fast.shards.remote.bucket import ObjectDownload

        download = ObjectDownload(system, path, sink)
    elif url.startswith(("http://", "https://")):
        from recap_fast.shards.remote.http import HttpDownload

        download = HttpDownload(system, url, sink)
    retries, restarts = Retries(url), 0
    while True:
        before = sink.tell()
        try:
            if download.copy_rest():
                version: Identity | None = download.version
                return version
            error: Exception = EOFError(f"the connection ended after {sink.tell():,} bytes")
        except network_errors() as caught:
            error = caught
        if sink.tell() and failure_of(error).kind == "replaced":
            restarts += 1
            if restarts > MAX_RESTARTS:
                raise ShardError(f"cannot be read: it was replaced {restarts} times while it was read") from error
            logger.warning("%s: it was replaced while it was read; reading it again from its start", public_url(url))
            sink.restart()
            continue
        _wait(retries, error, progressed=sink.tell() > before)


def _wait(retries: Retries, error: Exception, *, progressed: bool) -> None:
    try:
        retries.wait_after(error, progressed=progressed)
    except FileNotFoundError as missing:
        raise ShardError("is not there") from missing
    except OSError as final:
        raise ShardError(f"cannot be read: {final}") from final


class _Download:
    """Copies a file of any file system into a sink, and compares its version before and after."""

    def __init__(self, system: Any, path: str, url: str, sink: "_Spool"):
        self._system, self._path, self._url, self._sink = system, path, url, sink
        self.version: Identity | None = None
        self._chunk_bytes = CHUNK_BYTES

    def copy_rest(self) -> bool:
        """Appends what the sink lacks; whether it is complete then. Raises ReplacedError and what reading raises."""
        info, start = self._info(), self._sink.tell()
        if start and version_of(info) != self.version:
            raise ReplacedError
        self.version, size = version_of(info), info.get("size")
        if size is not None:
            self._sink.reserve(size - start)
        try:
            self._copy()
        except TimeoutError:
            self._chunk_bytes = min(self._chunk_bytes, SMALLEST_CHUNK_BYTES)
            raise
        if size is not None and self._sink.tell() < size:
            return False
        if version_of(self._info()) != self.version:
            raise ReplacedError
        return True

    def _info(self) -> Mapping[str, Any]:
        def info() -> Any:
            self._system.invalidate_cache(self._path)
            return self._system.info(self._path)

        return patiently(info)

    def _copy(self) -> None:
        source = patiently(
            lambda: self._system.open(self._path, "rb", block_size=self._chunk_bytes, cache_type="readahead")
        )
        try:
            patiently(lambda: source.seek(self._sink.tell()))
        except (ValueError, OSError):  # a server that cannot serve ranges: from the start again
            self._sink.restart()
        while chunk := patiently(lambda: source.read(self._chunk_bytes)):
            self._sink.write(chunk)
        source.close()  # else it may hang, and is left behind


class _Spool:
    """The local file, on a disk that is not filled."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.tell = file.tell

    def restart(self) -> None:
        """Drops what is there."""
        self._file.seek(0)
        self._file.truncate()

    def reserve(self, num_bytes: int) -> None:
        """Raises NoRoomError where so many bytes more would take what is to stay free."""
        free, reserved = _disk()
        if num_bytes > free - reserved:
            raise NoRoomError(
                f"does not fit into {tempfile.gettempdir()}: it takes {num_bytes:,} bytes more, {free:,} are free and "
                f"{reserved:,} of them stay so: set TMPDIR to a larger disk"
            )

    def write(self, chunk: bytes) -> None:
        """Appends. Raises NoRoomError where the disk is full."""
        self.reserve(len(chunk))
        try:
            self._file.write(chunk)
            self._file.flush()
        except OSError as error:
            where = tempfile.gettempdir()
            raise NoRoomError(f"does not fit into {where} ({error}): set TMPDIR to a larger disk") from error
