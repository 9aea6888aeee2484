"""Samples of a folder unit: loose image files, with `.txt`, `.json` and other texts beside them, as img2dataset does,
or with metadata files, as `datasets` reads them.

In go the unit's images; out come samples, each of which says which file it is and which version of it was read.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from recap_fast.addresses import is_remote
from recap_fast.records import OK, READ_AGAIN, UNREADABLE, Identity, ImageFile, Sample, Shard
from recap_fast.shards.folder.beside import extensions_beside
from recap_fast.shards.folder.metadata_files import MetadataFiles
from recap_fast.shards.identity import of_stat
from recap_fast.shards.local import NoFileError, is_absent, open_regular, read_whole
from recap_fast.shards.remote.access import network_errors, read_file
from recap_fast.shards.sample import MAX_IMAGE_BYTES, RawSample, to_sample
from recap_fast.shards.tar.side_files import CAPTION_EXTENSIONS, side_value
from recap_fast.text import MAX_TEXT_BYTES


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
        for index in np.setdiff1d(np.arange(len(self._shard.files)), done).tolist():
            if (file := self._shard.files[index]) is not None:
                yield to_sample(self._shard.name, index, self._raw(file))

    def close(self) -> None:
        """Nothing is held open between samples."""

    def _raw(self, file: ImageFile) -> RawSample:
        warnings: list[str] = []
        beside = self._beside(file, warnings)
        caption = next((beside.pop(name) for name in CAPTION_EXTENSIONS if name in beside), None)
        metadata = beside.pop("json", None)
        record = self._metadata.record(file.path, warnings)
        self.problem = self.problem or self._metadata.problem
        image, version, status, error = b"", file.version, OK, None
        try:
            image, version = _read(self._shard.url, file.path, MAX_IMAGE_BYTES)
        except _TooLargeError as too_large:
            status, error = "too_large", f"{file.path} has {too_large}"
        except NoFileError as other:
            status, error = "not_an_image", f"{file.path} cannot be read: {other}"
        except network_errors() as unreadable:
            if is_absent(unreadable):
                status, error = "missing_image", f"{file.path} is gone"
            else:
                status, error = UNREADABLE, f"{file.path} cannot be read: {unreadable}"
                self.problem = self.problem or error
        return RawSample(
            key=file.key,
            file_name=file.file_name,
            version=version,
            image=image,
            caption=caption,
            metadata=metadata,
            record=record,
            members={name: side_value(name, content, warnings) for name, content in beside.items()},
            status=status,
            error=error,
            warnings=warnings,
        )

    def _beside(self, image: ImageFile, warnings: list[str]) -> dict[str, bytes]:
        """What lies beside an image, by extension in lower case; remote folders are asked for two of these alone."""
        stem = str(PurePosixPath(image.path).with_suffix(""))
        folder, _, name = f"{self._shard.url}/{stem}".rpartition("/")
        others = () if is_remote(folder) else extensions_beside(folder, name)
        found: dict[str, bytes] = {}
        room = MAX_TEXT_BYTES
        for extension in ("txt", "json", *others):
            named = extension.lower()
            if named not in found and (content := self._sidecar(f"{stem}.{extension}", room, warnings)) is not None:
                found[named] = content
                room -= len(content) if extension in others else 0
        return found

    def _sidecar(self, file: str, room: int, warnings: list[str]) -> bytes | None:
        try:
            return _read(self._shard.url, file, room)[0]
        except _TooLargeError as too_large:
            warnings.append(f"{file} has {too_large} and is not read")
        except network_errors() as error:
            if not is_absent(error):
                warnings.append(f"{file} cannot be read: {error} {READ_AGAIN}")
                self.problem = self.problem or f"{file} cannot be read: {error}"
        return None


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
