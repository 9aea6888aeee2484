"""What tells one version of an input from another, without reading it: size, and modification time or etag.

In goes a shard, out comes its `Identity`; that of a folder unit stands for the versions of all its images.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recap_fast.addresses import is_remote, scrub
from recap_fast.errors import ShardError
from recap_fast.records import Identity, Shard
from recap_fast.shards.remote.access import file_system, network_errors, persistently, remote_identity, version_of
from recap_fast.store.connection import is_cloud

UNKNOWN = Identity(0, "unknown").text


def identity(shard: Shard) -> Identity:
    """Size in bytes and version of the input as it is now. Raises ShardError where it is not there."""
    if shard.kind == "folder":
        return _of_files(shard)
    try:
        if is_remote(shard.url):
            return remote_identity(shard.url)
        return of_stat(Path(shard.url).stat())
    except FileNotFoundError as error:
        raise ShardError("is not there") from error
    except network_errors() as error:
        raise ShardError(f"cannot be read: {scrub(str(error))}") from error


def image_versions(folder: str, paths: Sequence[str]) -> list[str | None]:
    """`Identity.text` of the images at these paths below a folder, as they are now; None for one that is not there.

    An image that cannot be asked for has the version 'unknown', and says why when it is read.
    """
    return (_remote_versions if is_remote(folder) else _local_versions)(folder, paths)


def of_stat(status: os.stat_result) -> Identity:
    """That of a local file."""
    return Identity(status.st_size, str(status.st_mtime_ns))


def _local_versions(folder: str, paths: Sequence[str]) -> list[str | None]:
    versions: list[str | None] = []
    for path in paths:
        try:
            found = os.stat(f"{folder}/{path}")  # noqa: PTH116 - Path costs as much again, and so does Identity
            versions.append(f"{found.st_size}:{found.st_mtime_ns}")
        except (FileNotFoundError, NotADirectoryError):
            versions.append(None)
        except OSError:
            versions.append(UNKNOWN)
    return versions


def _remote_versions(folder: str, paths: Sequence[str]) -> list[str | None]:
    """From the listings of the images' folders: a request for each file would take minutes."""
    system, root = file_system(folder)
    infos: dict[str, Mapping[str, Any]] = {}
    folders = {path.rpartition("/")[0] for path in paths}
    if is_cloud(folder) and folders != {""}:  # one listing has all folders below
        infos, folders = persistently(partial(system.find, root, detail=True), folder), set()
    for below in sorted(folders):
        try:
            listing = persistently(partial(system.ls, f"{root}/{below}".rstrip("/"), detail=True), folder)
            infos.update({info["name"]: info for info in listing})
        except FileNotFoundError:
            continue
    found = (infos.get(f"{root}/{path}") for path in paths)
    return [None if info is None else version_of(info).text for info in found]


def _of_files(shard: Shard) -> Identity:
    """As the images were listed; those that are gone have no part in it."""
    versions = [file.version for file in shard.files if file is not None and file.version is not None]
    total = sum(int(version.partition(":")[0]) for version in versions)
    return Identity(total, hashlib.sha256("\n".join(versions).encode()).hexdigest()[:32])
