"""Copies a tar with some stretches replaced, at the speed of the disk, and compares the copy with it in the end.

In go the edits in the order of their places; all that lies between them is copied as it is. A read brings some MiB of
the tar, and one write takes them with the new pieces between: thousands of members, and no Python for each of their
blocks.
"""

import itertools
import os
import zlib
from array import array
from collections.abc import Sequence

from recap_fast.errors import ShardError

CHUNK_BYTES = 4 << 20
MAX_PIECES = 1000
"""Of one write; Linux takes 1,024 (IOV_MAX)."""


class TarCopy:
    """From one open file to another, both by their descriptors."""

    def __init__(self, source: int, target: int, size_bytes: int) -> None:
        """`size_bytes`: of the source."""
        self._source, self._target, self._size = source, target, size_bytes
        self._position = self._start = 0
        self._pieces: list[tuple[int, int] | bytes] = []
        self._places, self._lengths, self._sums = array("q"), array("q"), array("L")

    def replace(self, start: int, end: int, new: bytes) -> None:
        """Puts other bytes, or none, in the place of a stretch that begins where the last one ended or later."""
        assert self._position <= start <= end <= self._size, (self._position, start, end)
        self._take(start)
        if new:
            self._pieces.append(new)
            self._log(-1, len(new), zlib.crc32(new))
        self._position = end
        if end - self._start >= CHUNK_BYTES or len(self._pieces) >= MAX_PIECES - 2:
            self._flush()

    def finish(self) -> None:
        """Copies the rest, and brings all to the disk."""
        self._take(self._size)
        self._flush()
        os.fsync(self._target)

    def check(self) -> None:
        """Reads the copy and the source again. Raises ShardError where a copied byte or a new one is not as it was."""
        at = 0
        for place, length, checksum in zip(self._places, self._lengths, self._sums, strict=True):
            is_same = True
            if place < 0:
                is_same = zlib.crc32(_read(self._target, at, length)) == checksum
            else:
                for step in range(0, length, CHUNK_BYTES):
                    size = min(CHUNK_BYTES, length - step)
                    is_same &= _read(self._target, at + step, size) == _read(self._source, place + step, size)
            if not is_same:
                raise ShardError(f"was not copied right: the copy differs between its bytes {at:,} and {at + length:,}")
            at += length
        if os.fstat(self._target).st_size != at:
            raise ShardError(f"was not copied right: the copy has {os.fstat(self._target).st_size:,} bytes, not {at:,}")

    def _take(self, end: int) -> None:
        """What lies before `end` is copied."""
        while self._position < end:
            size = min(end - self._position, CHUNK_BYTES)
            self._pieces.append((self._position, size))
            self._log(self._position, size, 0)
            self._position += size
            if self._position - self._start >= CHUNK_BYTES:
                self._flush()

    def _log(self, place: int, length: int, checksum: int) -> None:
        self._places.append(place)
        self._lengths.append(length)
        self._sums.append(checksum)

    def _flush(self) -> None:
        """Writes the pieces that are waiting. They lie within some MiB of the source."""
        copied = [piece for piece in self._pieces if isinstance(piece, tuple)]
        if copied:
            first, last = copied[0][0], copied[-1]
            content = memoryview(_read(self._source, first, last[0] + last[1] - first))
        views = [
            content[piece[0] - first : piece[0] - first + piece[1]] if isinstance(piece, tuple) else memoryview(piece)
            for piece in self._pieces
        ]
        _write(self._target, views)
        self._pieces.clear()
        self._start = self._position


def _write(file: int, views: Sequence[memoryview]) -> None:
    for first in range(0, len(views), MAX_PIECES):
        left = views[first : first + MAX_PIECES]
        while left:
            written = os.writev(file, left)
            ends = itertools.accumulate(map(len, left))
            done = sum(end <= written for end in ends)
            rest = written - sum(map(len, left[:done]))
            left = [left[done][rest:], *left[done + 1 :]] if done < len(left) else []


def _read(file: int, offset: int, size: int) -> bytes:
    content = os.pread(file, size, offset)
    while len(content) < size:
        more = os.pread(file, size - len(content), offset + len(content))
        if not more:
            raise ShardError("has become shorter while it was copied")
        content += more
    return content
