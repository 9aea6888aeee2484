"""Samples of a folder unit: up to 1,000 loose image files, with `.txt` and `.json` beside them, as img2dataset does.

In go the folder and the images' paths in it; out come samples, keyed by path without suffix.
"""

import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from recap_fast.records import OK, UNREADABLE, Identity, Sample, Shard
from recap_fast.shard_set import is_remote
from recap_fast.shards.remote import file_system, network_errors
from recap_fast.shards.sample import MAX_IMAGE_BYTES, MAX_TEXT_BYTES, RawSample, to_sample


def key_of(file: str) -> str:
    """A file's path without its last suffix."""
    return str(PurePosixPath(file).with_suffix(""))


class FolderReader:
    """Reads the images of one unit."""

    def __init__(self, shard: Shard, identity: Identity) -> None:
        self.identity = identity
        self.problem: str | None = None
        self.num_samples = len(shard.files)
        self._shard = shard
        counts = Counter(map(key_of, shard.files))
        self._repeated = frozenset(key for key, count in counts.items() if count > 1)

    def samples(self, done: NDArray[np.int64]) -> Iterator[Sample]:
        """The samples whose index is not in `done`, in order."""
        for index in np.setdiff1d(np.arange(self.num_samples), done).tolist():
            yield to_sample(self._shard.name, index, self._raw(self._shard.files[index]))

    def close(self) -> None:
        """Nothing is held open between samples."""

    def _raw(self, file: str) -> RawSample:
        key = key_of(file)
        warnings = ["another image of this shard has the same key"] if key in self._repeated else []
        caption, metadata = (self._sidecar(f"{key}{suffix}", warnings) for suffix in (".txt", ".json"))
        image, status, error = b"", OK, None
        try:
            image = _read(self._shard.url, file, MAX_IMAGE_BYTES)
        except FileNotFoundError:
            status, error = "missing_image", f"{file} is gone"
        except _TooLargeError as too_large:
            status, error = "too_large", f"{file} has {too_large}"
        except network_errors() as unreadable:
            status, error = UNREADABLE, f"{file} cannot be read: {unreadable}"
            self.problem = self.problem or error
        return RawSample(
            key=key, image=image, caption=caption, metadata=metadata, status=status, error=error, warnings=warnings
        )

    def _sidecar(self, file: str, warnings: list[str]) -> bytes | None:
        try:
            return _read(self._shard.url, file, MAX_TEXT_BYTES)
        except FileNotFoundError:
            return None
        except _TooLargeError as too_large:
            warnings.append(f"{file} has {too_large} and is not read")
        except network_errors() as error:
            warnings.append(f"{file} cannot be read: {error}")
        return None


class _TooLargeError(ValueError):
    pass


def _read(folder: str, file: str, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes. Raises what reading raises, and _TooLargeError."""
    if is_remote(folder):
        system, path = file_system(f"{folder}/{file}")
        size = system.info(path).get("size") or 0
        if size > limit:
            raise _TooLargeError(f"{size:,} bytes")
        content: bytes = system.cat_file(path)
        return content
    local = Path(folder, file)
    found = local.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")  # a pipe would be waited for
    if (size := found.st_size) > limit:
        raise _TooLargeError(f"{size:,} bytes")
    return local.read_bytes()
