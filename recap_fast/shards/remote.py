"""Where bytes lie: absolute local paths, and fsspec URLs (s3://, gs://, https://, memory://, hf://, ...).

In go the addresses that users write; out come file systems, and remote files spooled to a local one without a name,
which vanishes with its last descriptor, even when the process is killed. TMPDIR says where.
"""

import http.client
import importlib
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from recap_fast.errors import ConfigError, ShardError

logger = logging.getLogger(__name__)

CHUNK_BYTES = 8 << 20
NUM_ATTEMPTS = 5
_EXTRAS = {"s3": "'recap-fast[s3]'", "s3a": "'recap-fast[s3]'", "gs": "'recap-fast[gcs]'", "gcs": "'recap-fast[gcs]'"}
_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "hf": "huggingface_hub", "abfs": "adlfs", "az": "adlfs"}
_CLIENT_ERRORS = (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"), ("gcsfs.retry", "HttpError"))


def is_remote(url: str) -> bool:
    """Whether an address is an fsspec URL rather than a local path."""
    return "://" in url


def absolute(address: str) -> str:
    """The one spelling of an address: an absolute local path, or a URL without a slash at its end."""
    if address.startswith("file://"):
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


def spool(url: str) -> IO[bytes]:
    """The content of a remote file as a local one; close it to free the space.

    A dropped connection goes on from where it broke, `NUM_ATTEMPTS` times without progress.
    Raises ShardError when that fails, and where the disk is full.
    """
    system, path = file_system(url)
    local = tempfile.TemporaryFile(prefix="recap-fast-")  # noqa: SIM115 - the caller closes it
    try:
        _download(system, path, url, local)
    except BaseException:
        local.close()
        raise
    local.seek(0)
    return local


def _download(system: Any, path: str, url: str, local: IO[bytes]) -> None:
    failures = 0
    while True:
        before = local.tell()
        try:
            if _copy_rest(system, path, local):
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
        time.sleep(min(2.0 ** (failures - 1) * 0.5, 10.0))


def _copy_rest(system: Any, path: str, local: IO[bytes]) -> bool:
    """Appends what `local` lacks; whether it is complete then."""
    size = system.info(path).get("size")
    with system.open(path, "rb", block_size=CHUNK_BYTES, cache_type="readahead") as source:
        try:
            source.seek(local.tell())
        except (ValueError, OSError):  # a server that cannot serve ranges: from the start again
            local.seek(0)
            local.truncate()
        while chunk := source.read(CHUNK_BYTES):
            _write(local, chunk)
    return size is None or local.tell() >= size


def _write(local: IO[bytes], chunk: bytes) -> None:
    try:
        local.write(chunk)
        local.flush()
    except OSError as error:
        where = tempfile.gettempdir()
        raise ShardError(f"does not fit into {where} ({error}): set TMPDIR to a larger disk") from error
