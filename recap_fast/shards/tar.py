"""Samples of a webdataset tar: in goes a seekable file, out come samples in the order of their first members.

A key is a member's path up to the first dot of its base name; members of one key are one sample wherever they stand.
The index takes tens of bytes a member. Contents are read by offset, one sample at a time, and never go to disk.
"""

import logging
import os
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO

import numpy as np
from numpy.typing import NDArray

from recap_fast.records import OK, UNREADABLE, Identity, Sample, Shard
from recap_fast.shards.sample import IMAGE_EXTENSIONS, MAX_IMAGE_BYTES, RawSample, to_sample
from recap_fast.shards.tar_index import Member, TarIndexer
from recap_fast.text import MAX_TEXT_BYTES

logger = logging.getLogger(__name__)

_MASK_BITS = 64


@dataclass(slots=True)
class TarIndex:
    """Where the members of each sample lie. Add all members, then `finish`, then ask for those of a sample."""

    keys: list[bytes] = field(default_factory=list)
    current: dict[bytes, int] = field(default_factory=dict)
    """The latest sample of each key."""
    repeated: set[int] = field(default_factory=set)
    """Samples whose key an earlier one has too."""
    extension_ids: dict[str, int] = field(default_factory=dict)
    """Of each extension, in lower case, its number in `extensions`."""
    masks: "array[int]" = field(default_factory=lambda: array("Q"))
    """Per sample, which of the first 64 extensions it has; `rare` holds the others."""
    rare: set[tuple[int, int]] = field(default_factory=set)
    samples: "array[int]" = field(default_factory=lambda: array("i"))
    """Of each member; so are the next three."""
    extensions: "array[int]" = field(default_factory=lambda: array("I"))
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    """Bytes."""
    special: dict[int, str] = field(default_factory=dict)
    """Members without content of their own, and what they are."""
    links: list[tuple[int, bytes]] = field(default_factory=list)
    order: NDArray[np.int64] = field(init=False)
    starts: NDArray[np.int64] = field(init=False)
    """Sample i has the members `order[starts[i] : starts[i + 1]]`, in tar order."""
    extension_names: list[str] = field(init=False)

    def add(self, member: Member) -> None:
        """Takes the next member of the tar."""
        parts = split_name(member.name)
        if parts is None:
            return
        key, extension_name = parts
        extension = self.extension_ids.setdefault(extension_name, len(self.extension_ids))
        sample = self.current.get(key)
        if sample is None or self._has(sample, extension):
            if sample is not None:
                self.repeated.add(len(self.keys))
            sample = self.current[key] = len(self.keys)
            self.keys.append(key)
            self.masks.append(0)
        if extension < _MASK_BITS:
            self.masks[sample] |= 1 << extension
        else:
            self.rare.add((sample, extension))
        if member.link is not None:
            self.links.append((len(self.samples), member.link))
        if member.special is not None:
            self.special[len(self.samples)] = member.special
        self.samples.append(sample)
        self.extensions.append(extension)
        self.offsets.append(member.offset)
        self.sizes.append(member.size)

    def _has(self, sample: int, extension: int) -> bool:
        if extension < _MASK_BITS:
            return bool(self.masks[sample] >> extension & 1)
        return (sample, extension) in self.rare

    def finish(self) -> None:
        """Sorts the members by sample, and gives each hard link the content of the member that it names."""
        samples = np.array(self.samples, np.int64)
        self.order = np.argsort(samples, kind="stable")
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(samples, minlength=len(self.keys)))])
        self.extension_names = list(self.extension_ids)
        for row, target in self.links:
            key, extension = split_name(target) or (b"", "")
            sample = self.current.get(key)
            source = self.members(sample).get(extension) if sample is not None else None
            if source is None or source >= row:
                self.special[row] = "a link to a file that is not in the tar"
            else:
                self.offsets[row], self.sizes[row] = self.offsets[source], self.sizes[source]
        # all this was for grouping, and would stay for as long as the shard is read
        self.current, self.rare, self.links = {}, set(), []
        del self.masks[:]

    def members(self, sample: int) -> dict[str, int]:
        """Extension to member, of one sample."""
        rows = self.order[self.starts[sample] : self.starts[sample + 1]].tolist()
        return {self.extension_names[self.extensions[row]]: row for row in rows}


def split_name(name: bytes) -> tuple[bytes, str] | None:
    """Key and lower-case extension of a member. None for hidden files, files without extension and `__*__` ones."""
    while name.startswith((b"./", b"/")):
        name = name[1:] if name.startswith(b"/") else name[2:]
    folder, slash, base = name.rpartition(b"/")
    stem, dot, extension = base.partition(b".")
    if not (stem and dot and extension) or (stem.startswith(b"__") and base.endswith(b"__")):
        return None
    return folder + slash + stem, extension.decode("utf-8", "backslashreplace").lower()


class TarReader:
    """Reads one tar. `file` is local and is closed with the reader. Raises ShardError where it is no tar."""

    def __init__(self, shard: Shard, identity: Identity, file: IO[bytes]) -> None:
        self.identity = identity
        self.left_out: Mapping[str, int] = {}
        self._shard, self._file = shard, file
        self._size = os.fstat(file.fileno()).st_size
        self._index, indexer = TarIndex(), TarIndexer(file, self._size)
        for member in indexer:
            self._index.add(member)
        self._index.finish()
        self.problem = indexer.problem
        self._cut = indexer.problem is not None
        self.num_samples = len(self._index.keys)
        if self._index.repeated:
            count = len(self._index.repeated)
            logger.warning("%s: samples that repeat the key of another, as their rows say: %d", shard.url, count)

    def samples(self, done: NDArray[np.int64]) -> Iterator[Sample]:
        """The samples whose index is not in `done`, in order."""
        for index in np.setdiff1d(np.arange(self.num_samples), done).tolist():
            yield to_sample(self._shard.name, index, self._raw(index))

    def close(self) -> None:
        """Closes the file; a spooled one is gone with it."""
        self._file.close()

    def _raw(self, index: int) -> RawSample:
        members = self._index.members(index)
        image_name, others = _choose_image(members)
        warnings = self._warnings(index, image_name, others)
        caption = self._text(members.get("txt"), "the .txt", warnings)
        metadata = self._text(members.get("json"), "the .json", warnings)
        status, error, image = self._image(members, image_name)
        key = self._index.keys[index].decode("utf-8", "backslashreplace")
        return RawSample(
            key=key,
            version=self.identity.text,
            image=image,
            caption=caption,
            metadata=metadata,
            status=status,
            error=error,
            warnings=warnings,
        )

    def _warnings(self, index: int, image_name: str | None, others: int) -> list[str]:
        warnings = []
        if index in self._index.repeated:
            warnings.append("an earlier sample of this shard has the same key")
        if others:
            warnings.append(f"several images: .{image_name} is captioned, {others} more are not")
        if self._cut and index == self._index.samples[-1]:
            warnings.append("the shard breaks off after this sample: parts of it may be missing")
        return warnings

    def _image(self, members: dict[str, int], image_name: str | None) -> tuple[str, str | None, bytes]:
        """Status, error and bytes of a sample's image."""
        for name, row in members.items():
            if row not in self._index.special and self._end(row) > self._size:
                return "truncated", f"the .{name} is cut off at byte {self._size:,} of the shard", b""
        if image_name is None:
            return "missing_image", f"no image among its files: {', '.join(sorted(members)[:10])}", b""
        row = members[image_name]
        if row in self._index.special:
            return "missing_image", f"the .{image_name} is {self._index.special[row]}", b""
        if self._index.sizes[row] > MAX_IMAGE_BYTES:
            return "too_large", f"the .{image_name} has {self._index.sizes[row]:,} bytes", b""
        try:
            return OK, None, self._read(row)
        except OSError as error:
            self.problem = self.problem or f"cannot be read at byte {self._index.offsets[row]:,}: {error}"
            return UNREADABLE, f"the .{image_name} cannot be read: {error}", b""

    def _text(self, row: int | None, what: str, warnings: list[str]) -> bytes | None:
        if row is None or self._end(row) > self._size:
            return None
        if row in self._index.special:
            warnings.append(f"{what} is {self._index.special[row]}")
            return None
        if self._index.sizes[row] > MAX_TEXT_BYTES:
            warnings.append(f"{what} has {self._index.sizes[row]:,} bytes and is not read")
            return None
        try:
            return self._read(row)
        except OSError as error:
            warnings.append(f"{what} cannot be read: {error}")
            return None

    def _end(self, row: int) -> int:
        return self._index.offsets[row] + self._index.sizes[row]

    def _read(self, row: int) -> bytes:
        size = self._index.sizes[row]
        content = os.pread(self._file.fileno(), size, self._index.offsets[row])
        if len(content) < size:
            raise OSError(f"{len(content):,} of {size:,} bytes: the file has become shorter")
        return content


def _choose_image(members: dict[str, int]) -> tuple[str | None, int]:
    """The extension to caption, and how many other images there are: plain ones such as jpg before mask.png."""
    images = [name for name in members if name.rpartition(".")[2] in IMAGE_EXTENSIONS]
    if not images:
        return None, 0
    best = min(images, key=lambda name: (name.count("."), IMAGE_EXTENSIONS.index(name.rpartition(".")[2])))
    return best, len(images) - 1
