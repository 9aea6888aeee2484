"""Samples of a webdataset tar: in goes a seekable file, out come samples in the order of their first members.

`keys.py` says which members are one sample, `rows.py` which images have rows. Contents are read by offset, one sample
at a time, and never go to disk. All members that are text or json are part of the sample's metadata.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from recap_fast.addresses import public_url
from recap_fast.errors import ShardError
from recap_fast.records import OK, READ_AGAIN, UNREADABLE, Identity, Sample, Selection, Shard
from recap_fast.shards.sample import MAX_IMAGE_BYTES, RawSample, to_sample
from recap_fast.shards.side_text import read_json
from recap_fast.shards.tar.index import TarIndexer
from recap_fast.shards.tar.members import TarMembers
from recap_fast.shards.tar.rows import HEAD_BYTES, choose_rows
from recap_fast.shards.tar.side_files import Parts, SampleFiles, sample_files, side_value
from recap_fast.text import MAX_TEXT_BYTES

logger = logging.getLogger(__name__)


class TarReader:
    """Reads one tar. `file` is local and is closed with the reader. Raises ShardError where it is no tar."""

    def __init__(self, shard: Shard, identity: Identity, file: IO[bytes], selection: Selection) -> None:
        self.identity = identity
        self._shard, self._file, self._selection = shard, file, selection
        self._size = os.fstat(file.fileno()).st_size
        self._members, indexer = TarMembers(), TarIndexer(file, self._size)
        for member in indexer:
            self._members.add(member)
        self._members.finish(lambda: TarIndexer(file, self._size), dots_in_keys=selection.image_key is None)
        self.problem = indexer.problem
        self._cut = indexer.problem is not None
        self._rows = choose_rows(self._members, selection, self._head, is_cut=self._cut)
        self._open = -1
        self._of: dict[str, int] = {}
        self._files = SampleFiles((), False)
        self.num_samples = len(self._rows.samples)
        self.left_out: Mapping[str, int] = self._rows.left_out
        shown = public_url(shard.url)
        if self._members.repeated:
            count = len(self._members.repeated)
            repeat = "1 sample repeats" if count == 1 else f"{count:,} samples repeat"
            logger.warning("%s: %s the key of another; the column `warning` says which", shown, repeat)
        if indexer.remark is not None:
            logger.warning("%s: %s", shown, indexer.remark)

    def samples(self, done: NDArray[np.int64]) -> Iterator[Sample]:
        """The samples whose index is not in `done`, in order."""
        for index in np.setdiff1d(np.arange(self.num_samples), done).tolist():
            yield to_sample(self._shard.name, index, self._raw(index))

    def close(self) -> None:
        """Closes the file; a spooled one is gone with it."""
        self._file.close()

    def _raw(self, index: int) -> RawSample:
        sample, row = int(self._rows.samples[index]), int(self._rows.images[index])
        if self._open != sample:  # rows of one sample follow one another, and it may have very many
            self._open, self._of = sample, self._members.of(sample)
            self._files = sample_files(tuple(self._of), self._selection.images == "all")
        members = self._of
        extension = None if row < 0 else self._members.extension_names[self._members.extensions[row]]
        parts = self._files.parts(extension)
        warnings = self._warnings(sample, parts)
        status, error, content = self._image(members, extension)
        return RawSample(
            key=self._members.keys[sample].decode("utf-8", "backslashreplace"),
            file_name=None if row < 0 else self._members.name(row).decode("utf-8", "backslashreplace"),
            version=self.identity.text,
            image=content,
            caption=self._text(members, parts.caption, warnings),
            metadata=self._text(members, parts.json, warnings),
            record=self._record(members, parts.record, warnings),
            members=self._others(members, parts.others, warnings),
            status=status,
            error=error,
            warnings=warnings,
        )

    def _warnings(self, sample: int, parts: Parts) -> list[str]:
        warnings = []
        if sample in self._members.repeated:
            warnings.append("an earlier sample of this shard has the same key")
        if parts.further and parts.image is not None and self._selection.images == "first":
            more = f"{parts.further} more are" if parts.further > 1 else "1 more is"
            warnings.append(f"several images: .{parts.image} is captioned, {more} not")
        if self._cut and sample == self._members.samples[-1]:
            warnings.append("the shard breaks off after this sample: parts of it may be missing")
        return warnings

    def _image(self, members: Mapping[str, int], image: str | None) -> tuple[str, str | None, bytes]:
        """Status, error and bytes of a row's image."""
        for name, row in members.items() if self._cut else ():
            if row not in self._members.special and self._end(row) > self._size:
                return "truncated", f"the .{name} is cut off at byte {self._size:,} of the shard", b""
        if image is None:
            wanted = f"no image {self._selection.image_key!r}" if self._selection.image_key else "no image"
            return "missing_image", f"{wanted} among its files: {', '.join(sorted(members)[:10])}", b""
        row = members[image]
        if row in self._members.special:
            return "missing_image", f"the .{image} is {self._members.special[row]}", b""
        if self._content_size(row) > MAX_IMAGE_BYTES:
            return "too_large", f"the .{image} has {self._content_size(row):,} bytes", b""
        try:
            return OK, None, self._read(row)
        except OSError as error:
            self.problem = self.problem or f"cannot be read at byte {self._members.offsets[row]:,}: {error}"
            return UNREADABLE, f"the .{image} cannot be read: {error}", b""

    def _record(self, members: Mapping[str, int], name: str | None, warnings: list[str]) -> dict[str, Any] | None:
        content = self._text(members, name, warnings)
        read = None if content is None else read_json(content, f"the .{name}", warnings)
        return read.value if read is not None and isinstance(read.value, dict) else None

    def _others(self, members: Mapping[str, int], names: tuple[str, ...], warnings: list[str]) -> dict[str, Any]:
        others: dict[str, Any] = {}
        room = MAX_TEXT_BYTES
        for name in names:
            content = self._text(members, name, warnings, room)
            if content is not None:
                others[name], room = side_value(name, content, warnings), room - len(content)
        return others

    def _text(
        self, members: Mapping[str, int], name: str | None, warnings: list[str], room: int | None = None
    ) -> bytes | None:
        """The bytes of a member; None where it is not there, cannot be read or, with a warning, exceeds the room."""
        row = None if name is None else members.get(name)
        if row is None or (self._cut and self._end(row) > self._size):
            return None
        if row in self._members.special:
            warnings.append(f"the .{name} is {self._members.special[row]}")
            return None
        if self._content_size(row) > (MAX_TEXT_BYTES if room is None else room):
            warnings.append(f"the .{name} has {self._content_size(row):,} bytes and is not read")
            return None
        try:
            return self._read(row)
        except OSError as error:
            self.problem = self.problem or f"cannot be read at byte {self._members.offsets[row]:,}: {error}"
            warnings.append(f"the .{name} cannot be read: {error} {READ_AGAIN}")
            return None

    def _head(self, row: int) -> bytes:
        if row in self._members.special:
            return b""
        try:
            size = min(HEAD_BYTES, self._members.sizes[row])
            return os.pread(self._file.fileno(), size, self._members.offsets[row])
        except OSError as error:
            raise ShardError(f"cannot be read at byte {self._members.offsets[row]:,}: {error}") from error

    def _end(self, row: int) -> int:
        return self._members.offsets[row] + self._members.sizes[row]

    def _content_size(self, row: int) -> int:
        sparse = self._members.sparse.get(row)
        return self._members.sizes[row] if sparse is None else sparse.whole_size

    def _read(self, row: int) -> bytes:
        size = self._members.sizes[row]
        content = os.pread(self._file.fileno(), size, self._members.offsets[row])
        if len(content) < size:
            raise OSError(f"{len(content):,} of {size:,} bytes: the file has become shorter")
        sparse = self._members.sparse.get(row)
        return content if sparse is None else sparse.fill(content)
