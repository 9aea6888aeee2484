"""Samples of a folder unit: loose image files, with `.txt`, `.json` and other texts beside them, as img2dataset does,
or with metadata files, as `datasets` reads them.

In go the unit's images; out come samples, each of which says which file it is and which version of it was read.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from recap_fast.addresses import is_remote
from recap_fast.records import OK, READ_AGAIN, UNREADABLE, Identity, ImageFile, Sample, Shard
from recap_fast.shards.folder.beside import extensions_beside
from recap_fast.shards.folder.metadata_files import MetadataFiles
from recap_fast.shards.identity import of_stat
from recap_fast.shards.local import NoFileError, is_absent, open_regular, read_whole
from recap_fast.shards.patience import side_by_side
from recap_fast.shards.remote.access import network_errors, read_file
from recap_fast.shards.sample import MAX_IMAGE_BYTES, RawSample, to_sample
from recap_fast.shards.tar.side_files import CAPTION_EXTENSIONS, side_value
from recap_fast.text import MAX_TEXT_BYTES

NUM_THREADS = 16
"""Of the images of a remote folder, so many are asked for at a time: each takes three requests of some 30 ms."""
BATCH_BYTES = 64 << 20
"""And no more than have so many bytes, unless it is one."""


@dataclass(slots=True)
class _Files:
    """What was read of an image and what lies beside it."""

    image: bytes
    version: str | None
    beside: dict[str, bytes]
    """By extension in lower case."""
    warnings: list[str]
    status: str = OK
    error: str | None = None
    problem: str | None = None


class FolderReader:
    """Reads the images of one unit."""

    def __init__(self, shard: Shard, identity: Identity) -> None:
        self.identity = identity
        self.left_out: Mapping[str, int] = {}
        self.problem: str | None = None
        self.num_samples = sum(file is not None for file in shard.files)
        self._shard = shard
        self._metadata = MetadataFiles(shard.url)

    def samples(self, done: NDArray[np.int64]) -> Iterator[Sample]:
        """The samples whose index is not in `done`, in order."""
        left = np.setdiff1d(np.arange(len(self._shard.files)), done).tolist()
        files = [(index, file) for index in left if (file := self._shard.files[index]) is not None]
        for batch in _batches(files) if is_remote(self._shard.url) else ([file] for file in files):
            images = [file for _, file in batch]
            read = side_by_side(self._read, images, NUM_THREADS) if len(images) > 1 else map(self._read, images)
            for (index, file), found in zip(batch, read, strict=True):
                yield to_sample(self._shard.name, index, self._raw(file, found))

    def close(self) -> None:
        """Nothing is held open between samples."""

    def _raw(self, file: ImageFile, read: _Files) -> RawSample:
        beside = dict(read.beside)
        caption = next((beside.pop(name) for name in CAPTION_EXTENSIONS if name in beside), None)
        metadata = beside.pop("json", None)
        record = self._metadata.record(file.path, read.warnings)
        self.problem = self.problem or read.problem or self._metadata.problem
        return RawSample(
            key=file.key,
            file_name=file.file_name,
            version=read.version,
            image=read.image,
            caption=caption,
            metadata=metadata,
            record=record,
            members={name: side_value(name, content, read.warnings) for name, content in beside.items()},
            status=read.status,
            error=read.error,
            warnings=read.warnings,
        )

    def _read(self, file: ImageFile) -> _Files:
        found = self._beside(file)
        try:
            found.image, found.version = _read(self._shard.url, file.path, MAX_IMAGE_BYTES)
        except _TooLargeError as too_large:
            found.status, found.error = "too_large", f"{file.path} has {too_large}"
        except NoFileError as other:
            found.status, found.error = "not_an_image", f"{file.path} cannot be read: {other}"
        except network_errors() as unreadable:
            if is_absent(unreadable):
                found.status, found.error = "missing_image", f"{file.path} is gone"
            else:
                found.status, found.error = UNREADABLE, f"{file.path} cannot be read: {unreadable}"
                found.problem = found.problem or found.error
        return found

    def _beside(self, image: ImageFile) -> _Files:
        """What lies beside an image; remote folders are asked for two of these alone."""
        stem = str(PurePosixPath(image.path).with_suffix(""))
        folder, _, name = f"{self._shard.url}/{stem}".rpartition("/")
        others = () if is_remote(folder) else extensions_beside(folder, name)
        found = _Files(b"", image.version, {}, [])
        room = MAX_TEXT_BYTES
        for extension in ("txt", "json", *others):
            named = extension.lower()
            if named in found.beside:
                continue
            if (content := self._sidecar(f"{stem}.{extension}", room, found)) is not None:
                found.beside[named] = content
                room -= len(content) if extension in others else 0
        return found

    def _sidecar(self, file: str, room: int, found: _Files) -> bytes | None:
        try:
            return _read(self._shard.url, file, room)[0]
        except _TooLargeError as too_large:
            found.warnings.append(f"{file} has {too_large} and is not read")
        except network_errors() as error:
            if not is_absent(error):
                found.warnings.append(f"{file} cannot be read: {error} {READ_AGAIN}")
                found.problem = found.problem or f"{file} cannot be read: {error}"
        return None


def _batches(files: Sequence[tuple[int, ImageFile]]) -> Iterator[list[tuple[int, ImageFile]]]:
    """In their order, as many as are read at once."""
    batch: list[tuple[int, ImageFile]] = []
    total = 0
    for index, file in files:
        size = int((file.version or "0").partition(":")[0])
        if batch and (len(batch) == NUM_THREADS or total + size > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append((index, file))
        total += size
    if batch:
        yield batch


class _TooLargeError(ValueError):
    pass


def _read(folder: str, path: str, limit: int) -> tuple[bytes, str]:
    """Content and version of a file of at most `limit` bytes. Raises what reading raises, and _TooLargeError."""
    if is_remote(folder):
        content, identity = read_file(f"{folder}/{path}", limit)
    else:
        with open_regular(f"{folder}/{path}") as file:
            identity = of_stat(os.fstat(file.fileno()))
            content = None if identity.size_bytes > limit else read_whole(file, identity.size_bytes)
    if content is None:
        raise _TooLargeError(f"{identity.size_bytes:,} bytes")
    return content, identity.text
