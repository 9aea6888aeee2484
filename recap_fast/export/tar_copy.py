"""Copies a tar with some stretches replaced, at the speed of the disk, and compares the copy with it.

In go the edits in the order of their places; all that lies between them is copied as it is: a few large writes, and no
Python for each of the blocks. Each write is read back at once, while its bytes are still in the processor's cache.
"""

import itertools
import os

from recap_fast.errors import ShardError
from recap_fast.shards.tar.chunks import CHUNK_BYTES, Chunks

MAX_PIECES = 1000
"""Most pieces of one write; Linux takes 1,024 (IOV_MAX)."""


WRITEBACK_BYTES = 8 << 20
"""The system is told to begin writing each such stretch to the disk: else it begins at the end, and all wait for it."""


class TarCopy:
    """From one file to another, which is open for reading and writing, and empty."""

    def __init__(self, source: Chunks, target: int, size_bytes: int, *, verify: bool = True) -> None:
        """`size_bytes`: of the source. `verify`: every byte of the copy is read back, and compared."""
        self._source, self._target, self._size, self._verify = source, target, size_bytes, verify
        self._position = self._written = self._sent = self._num_bytes = 0
        self._pieces: list[memoryview] = []
        self._back = bytearray()

    def replace(self, start: int, end: int, new: bytes) -> None:
        """Puts other bytes, or none, in the place of a stretch that begins where the last one ended or later.

        Raises ShardError where the source has become shorter, and where the copy is not as it was written.
        """
        assert self._position <= start <= end <= self._size, (self._position, start, end)
        self._copy_until(start)
        if new:
            self._put(memoryview(new))
        self._position = end

    def finish(self) -> None:
        """Copies the rest, and brings all to the disk. Raises as `replace` does."""
        self._copy_until(self._size)
        self._flush()
        size = os.fstat(self._target).st_size
        if size != self._written:
            raise ShardError(f"was not copied right: the copy has {size:,} bytes, not {self._written:,}")
        os.fsync(self._target)

    def _copy_until(self, end: int) -> None:
        for view in self._source.views(self._position, end):
            self._put(view)
        self._position = end

    def _put(self, piece: memoryview) -> None:
        self._pieces.append(piece)
        self._num_bytes += len(piece)
        if self._num_bytes >= CHUNK_BYTES or len(self._pieces) == MAX_PIECES:
            self._flush()

    def _flush(self) -> None:
        left = self._pieces[:]
        while left:
            written = os.writev(self._target, left)
            while left and written >= len(left[0]):
                written -= len(left[0])
                del left[0]
            if left:
                left[0] = left[0][written:]
        at, self._written = self._written, self._written + self._num_bytes
        if self._verify and not self._is_written(at):
            raise ShardError(f"was not copied right: the copy differs between its bytes {at:,} and {self._written:,}")
        self._pieces, self._num_bytes = [], 0
        if self._written - self._sent >= WRITEBACK_BYTES:
            os.posix_fadvise(self._target, self._sent, self._written - self._sent, os.POSIX_FADV_DONTNEED)
            self._sent = self._written

    def _is_written(self, at: int) -> bool:
        """Whether the pieces are what is there."""
        if len(self._back) < self._num_bytes:
            self._back = bytearray(self._num_bytes)
        if os.preadv(self._target, [memoryview(self._back)[: self._num_bytes]], at) != self._num_bytes:
            return False
        starts = itertools.accumulate(map(len, self._pieces), initial=0)
        return all(self._back.startswith(piece, start) for piece, start in zip(self._pieces, starts, strict=False))
