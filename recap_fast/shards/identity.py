"""What tells one version of an input from another, without reading it: size, and modification time or etag.

In goes a shard, out comes its `Identity`. A folder unit's covers its images and what lies beside them.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from recap_fast.errors import ShardError
from recap_fast.records import Identity, Shard
from recap_fast.shard_set import is_remote
from recap_fast.shards.remote import file_system, network_errors

_VERSIONS = ("ETag", "etag", "md5Hash", "commit_hash", "LastModified", "last_modified", "updated", "mtime", "created")
"""Of a remote file's info, the best first."""


def identity(shard: Shard) -> Identity:
    """Size in bytes and version of the input as it is now. Raises ShardError where it is not there."""
    try:
        if shard.kind == "folder":
            return _of_files(shard)
        if is_remote(shard.url):
            system, path = file_system(shard.url)
            return _of_info(system.info(path))
        return _of_local(shard.url)
    except FileNotFoundError as error:
        raise ShardError("is not there") from error
    except network_errors() as error:
        raise ShardError(f"cannot be read: {error}") from error


def _of_info(info: Mapping[str, Any]) -> Identity:
    return Identity(int(info.get("size") or 0), str(next((info[n] for n in _VERSIONS if info.get(n)), "unknown")))


def _of_local(path: str | Path) -> Identity:
    status = Path(path).stat()
    return Identity(status.st_size, str(status.st_mtime_ns))


def _of_files(shard: Shard) -> Identity:
    total, digest = 0, hashlib.sha256()
    for name, one in _remote_files(shard) if is_remote(shard.url) else _local_files(shard):
        total += one.size_bytes
        digest.update(f"{name}\0{one.size_bytes}\0{one.version}\n".encode("utf-8", "surrogateescape"))
    return Identity(total, digest.hexdigest()[:32])


def _with_sidecars(files: Sequence[str]) -> Iterator[str]:
    for file in files:
        path = PurePosixPath(file)
        yield from (file, str(path.with_suffix(".txt")), str(path.with_suffix(".json")))


def _local_files(shard: Shard) -> Iterator[tuple[str, Identity]]:
    for name in _with_sidecars(shard.files):
        with contextlib.suppress(FileNotFoundError):
            yield name, _of_local(Path(shard.url, name))


def _remote_files(shard: Shard) -> Iterator[tuple[str, Identity]]:
    """From the listings of the images' folders: a request for each file would take minutes."""
    system, root = file_system(shard.url)
    infos = {}
    for parent in sorted({str(PurePosixPath(file).parent) for file in shard.files}):
        folder = root if parent == "." else f"{root}/{parent}"
        infos.update({info["name"]: info for info in system.ls(folder, detail=True)})
    for name in _with_sidecars(shard.files):
        if info := infos.get(f"{root}/{name}"):
            yield name, _of_info(info)
