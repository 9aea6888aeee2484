"""What tells one version of an input from another, without reading it: size, and modification time or etag.

In goes a shard, out comes its `Identity`. A folder unit's covers its images and what lies beside them.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from recap_fast.errors import ShardError
from recap_fast.records import Identity, Shard
from recap_fast.shard_set import is_remote
from recap_fast.shards.remote import file_system, network_errors

_VERSION_FIELDS = (
    "ETag",
    "etag",
    "md5Hash",
    "commit_hash",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
    "created",
)


def identity(shard: Shard) -> Identity:
    """Size in bytes and version of the input as it is now. Raises ShardError where it is not there."""
    try:
        if shard.kind == "folder":
            return _of_files(shard)
        if is_remote(shard.url):
            system, path = file_system(shard.url)
            info = system.info(path)
            return Identity(int(info.get("size") or 0), _version(info))
        status = Path(shard.url).stat()
    except FileNotFoundError as error:
        raise ShardError("is not there") from error
    except network_errors() as error:
        raise ShardError(f"cannot be read: {error}") from error
    return Identity(status.st_size, str(status.st_mtime_ns))


def _version(info: dict[str, object]) -> str:
    return str(next((info[name] for name in _VERSION_FIELDS if info.get(name)), "unknown"))


def _of_files(shard: Shard) -> Identity:
    total, digest = 0, hashlib.sha256()
    for name, size, version in _remote_files(shard) if is_remote(shard.url) else _local_files(shard):
        total += size
        digest.update(f"{name}\0{size}\0{version}\n".encode("utf-8", "surrogateescape"))
    return Identity(total, digest.hexdigest()[:32])


def _with_sidecars(file: str) -> tuple[str, str, str]:
    path = PurePosixPath(file)
    return file, str(path.with_suffix(".txt")), str(path.with_suffix(".json"))


def _local_files(shard: Shard) -> Iterator[tuple[str, int, str]]:
    for file in shard.files:
        for name in _with_sidecars(file):
            try:
                status = Path(shard.url, name).stat()
            except FileNotFoundError:
                continue
            yield name, status.st_size, str(status.st_mtime_ns)


def _remote_files(shard: Shard) -> Iterator[tuple[str, int, str]]:
    """From the listings of the images' folders: a request for each file would take minutes."""
    system, root = file_system(shard.url)
    infos = {}
    for parent in sorted({str(PurePosixPath(file).parent) for file in shard.files}):
        folder = root if parent == "." else f"{root}/{parent}"
        infos.update({info["name"]: info for info in system.ls(folder, detail=True)})
    for file in shard.files:
        for name in _with_sidecars(file):
            info = infos.get(f"{root}/{name}")
            if info is not None:
                yield name, int(info.get("size") or 0), _version(info)
