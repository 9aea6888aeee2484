"""Where bytes lie: absolute local paths, and fsspec URLs (s3://, gs://, https://, memory://, hf://, ...).

In go the addresses that users write; out come file systems, and remote files spooled to a local one without a name,
which vanishes with its last descriptor, even when the process is killed. TMPDIR says where; that disk is never filled.
"""

import http.client
import importlib
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from recap_fast.errors import ConfigError, ShardError, StoppedError
from recap_fast.shard_set import is_remote

logger = logging.getLogger(__name__)

CHUNK_BYTES = 8 << 20
NUM_ATTEMPTS = 5
POLL_S = 0.25
RESERVED_BYTES = 1 << 30
"""Of the disk that remote files are spooled to, so much stays free, or a twentieth where that is less."""
_EXTRAS = {"s3": "'recap-fast[s3]'", "s3a": "'recap-fast[s3]'", "gs": "'recap-fast[gcs]'", "gcs": "'recap-fast[gcs]'"}
_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "hf": "huggingface_hub", "abfs": "adlfs", "az": "adlfs"}
_CLIENT_ERRORS = (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"), ("gcsfs.retry", "HttpError"))


def absolute(address: str) -> str:
    """The one spelling of an address: an absolute local path, or a URL without a slash at its end."""
    address = address.removeprefix("file://")
    if is_remote(address):
        return address.rstrip("/") if not address.endswith("://") else address
    return os.path.abspath(Path(address).expanduser())  # noqa: PTH100 - resolve() would follow links


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it. Raises ConfigError where its package is not installed."""
    import fsspec

    protocol = url.split("://", 1)[0].rsplit("::", 1)[-1]
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _EXTRAS.get(protocol) or _PACKAGES.get(protocol)
        hint = f"run `pip install {package}`" if package else f"install its package ({error})"
        raise ConfigError(f"{url} needs a package for {protocol}:// that is not installed: {hint}.") from error
    except ValueError as error:
        raise ConfigError(f"{url} is of a kind that fsspec does not know: {error}.") from error
    return system, path


def network_errors() -> tuple[type[Exception], ...]:
    """What reading over a network raises, of the clients that are loaded: their errors are not all OSError."""
    kinds: list[type[Exception]] = [OSError, EOFError, http.client.HTTPException]
    for module, name in _CLIENT_ERRORS:
        if module in sys.modules:
            kinds.append(getattr(importlib.import_module(module), name))
    return tuple(kinds)


def spool(url: str, should_stop: Callable[[], bool] = lambda: False) -> IO[bytes]:
    """The content of a remote file as a local one; close it to free the space.

    A dropped connection goes on from where it broke, `NUM_ATTEMPTS` times without progress.
    Raises ShardError when that fails and where the disk has too little room, before the download if the size is known;
    StoppedError within a chunk of `should_stop` saying so.
    """
    system, path = file_system(url)
    local = tempfile.TemporaryFile(prefix="recap-fast-")  # noqa: SIM115 - the caller closes it
    try:
        _download(system, path, url, local, should_stop)
    except BaseException:
        local.close()
        raise
    local.seek(0)
    return local


def _download(system: Any, path: str, url: str, local: IO[bytes], should_stop: Callable[[], bool]) -> None:
    failures = 0
    while True:
        before = local.tell()
        try:
            if _copy_rest(system, path, local, should_stop):
                return
            reason: Exception = EOFError(f"the connection ended after {local.tell():,} bytes")
        except (FileNotFoundError, PermissionError) as error:
            raise ShardError(f"cannot be read: {error!r}") from error
        except network_errors() as error:
            reason = error
        failures = 1 if local.tell() > before else failures + 1
        if failures >= NUM_ATTEMPTS:
            raise ShardError(f"cannot be read, tried {failures} times: {reason!r}") from reason
        logger.warning("%s: %r; trying again", url, reason)
        for _ in range(math.ceil(min(2.0 ** (failures - 1) * 0.5, 10.0) / POLL_S)):
            _check_stop(should_stop)
            time.sleep(POLL_S)


def _check_stop(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise StoppedError("the run is stopping")


def _copy_rest(system: Any, path: str, local: IO[bytes], should_stop: Callable[[], bool]) -> bool:
    """Appends what `local` lacks; whether it is complete then."""
    _check_stop(should_stop)
    size = system.info(path).get("size")
    if size is not None:
        _check_space(size - local.tell())
    with system.open(path, "rb", block_size=CHUNK_BYTES, cache_type="readahead") as source:
        try:
            source.seek(local.tell())
        except (ValueError, OSError):  # a server that cannot serve ranges: from the start again
            local.seek(0)
            local.truncate()
        while chunk := source.read(CHUNK_BYTES):
            _check_stop(should_stop)
            _check_space(len(chunk))
            _write(local, chunk)
    return size is None or local.tell() >= size


def _check_space(num_bytes: int) -> None:
    """Raises ShardError where so many bytes more would take what is to stay free."""
    where = tempfile.gettempdir()
    disk = shutil.disk_usage(where)
    reserved = min(RESERVED_BYTES, disk.total // 20)
    if num_bytes > disk.free - reserved:
        raise ShardError(
            f"does not fit into {where}: it takes {num_bytes:,} bytes more, {disk.free:,} are free and {reserved:,} of "
            "them stay so: set TMPDIR to a larger disk"
        )


def _write(local: IO[bytes], chunk: bytes) -> None:
    try:
        local.write(chunk)
        local.flush()
    except OSError as error:
        where = tempfile.gettempdir()
        raise ShardError(f"does not fit into {where} ({error}): set TMPDIR to a larger disk") from error
