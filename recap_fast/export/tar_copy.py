"""Copies a tar with some stretches replaced, at the speed of the disk, and compares the copy with it in the end.

In go the edits in the order of their places; all that lies between them is copied as it is: a few large writes, and no
Python for each of the blocks.
"""

import os
import zlib
from array import array

from recap_fast.errors import ShardError
from recap_fast.shards.tar.chunks import CHUNK_BYTES, Chunks

MAX_PIECES = 1000
"""Of one write; Linux takes 1,024 (IOV_MAX)."""


class TarCopy:
    """From one file to another, which is open for reading and writing."""

    def __init__(self, source: Chunks, target: int, size_bytes: int) -> None:
        """`size_bytes`: of the source."""
        self._source, self._target, self._size = source, target, size_bytes
        self._position = self._num_bytes = 0
        self._pieces: list[memoryview] = []
        self._places, self._lengths, self._sums = array("q"), array("q"), array("L")

    def replace(self, start: int, end: int, new: bytes) -> None:
        """Puts other bytes, or none, in the place of a stretch that begins where the last one ended or later."""
        assert self._position <= start <= end <= self._size, (self._position, start, end)
        self._copy_until(start)
        if new:
            self._log(-1, len(new), zlib.crc32(new))
            self._put(memoryview(new))
        self._position = end

    def finish(self) -> None:
        """Copies the rest, and brings all to the disk."""
        self._copy_until(self._size)
        self._flush()
        os.fsync(self._target)

    def check(self, source: int) -> None:
        """Reads the copy and the source again. Raises ShardError where a copied byte or a new one is not as it was."""
        at = 0
        for place, length, checksum in zip(self._places, self._lengths, self._sums, strict=True):
            is_same = True
            if place < 0:
                is_same = zlib.crc32(os.pread(self._target, length, at)) == checksum
            else:
                for step in range(0, length, CHUNK_BYTES):
                    size = min(CHUNK_BYTES, length - step)
                    is_same &= os.pread(self._target, size, at + step) == os.pread(source, size, place + step)
            if not is_same:
                raise ShardError(f"was not copied right: the copy differs between its bytes {at:,} and {at + length:,}")
            at += length
        if os.fstat(self._target).st_size != at:
            raise ShardError(f"was not copied right: the copy has {os.fstat(self._target).st_size:,} bytes, not {at:,}")

    def _copy_until(self, end: int) -> None:
        if self._position < end:
            self._log(self._position, end - self._position, 0)
            for view in self._source.views(self._position, end):
                self._put(view)
            self._position = end

    def _log(self, place: int, length: int, checksum: int) -> None:
        self._places.append(place)
        self._lengths.append(length)
        self._sums.append(checksum)

    def _put(self, piece: memoryview) -> None:
        self._pieces.append(piece)
        self._num_bytes += len(piece)
        if self._num_bytes >= CHUNK_BYTES or len(self._pieces) == MAX_PIECES:
            self._flush()

    def _flush(self) -> None:
        left, self._pieces, self._num_bytes = self._pieces, [], 0
        while left:
            written = os.writev(self._target, left)
            while left and written >= len(left[0]):
                written -= len(left[0])
                del left[0]
            if left:
                left[0] = left[0][written:]
