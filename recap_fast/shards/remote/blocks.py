"""A remote file that is read in places, several requests at a time: a Parquet file is read column by column.

A long read, and one that goes on from an earlier one, comes in blocks, and those that follow are fetched meanwhile.
"""

from collections import OrderedDict
from collections.abc import Callable

from recap_fast.shards.patience import Attempt

BLOCK_BYTES = 4 << 20
"""A request takes some 30 ms until bytes come, in which a connection could bring 2 to 3 MB."""
MAX_BYTES = 32 << 20
"""What is kept: the columns of a table take turns."""
NUM_AHEAD = 4
"""Blocks that are fetched at once, beside the one that is waited for."""


class Blocks:
    """Reads a file of `size` bytes. Raises what `fetch` raises, which is given a first position and an end."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int):
        self._fetch, self._size, self._position = fetch, size, 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        """By position; what was used last stands last."""
        self._ahead: dict[int, Attempt[bytes]] = {}

    def seek(self, position: int) -> None:
        """The next read begins there."""
        self._position = position

    def read(self, num_bytes: int) -> bytes:
        """So many bytes, or as many as there are."""
        pieces, end = [], min(self._position + num_bytes, self._size)
        while self._position < end:
            start, block = self._block(self._position, end)
            pieces.append(memoryview(block)[self._position - start : end - start])
            self._position += len(pieces[-1])
        return b"".join(pieces)

    def _block(self, position: int, end: int) -> tuple[int, bytes]:
        """What is kept from a position on, with its own first one; it is fetched where nothing is."""
        for start, block in self._kept.items():
            if start <= position < start + len(block):
                self._kept.move_to_end(start)
                return start, block
        fetched_end, attempt = end, self._ahead.pop(position, None)
        goes_on = any(start + len(block) == position for start, block in self._kept.items())
        if goes_on or end - position > BLOCK_BYTES:
            fetched_end = min(position + BLOCK_BYTES, self._size)
            if attempt is None and len(self._ahead) == NUM_AHEAD:  # nobody may want the oldest one any more
                del self._ahead[next(iter(self._ahead))]
            self._fetch_ahead(fetched_end)
        block = self._fetch(position, fetched_end) if attempt is None else attempt.result()
        if not block:
            raise EOFError(f"nothing came from byte {position:,} on")
        self._kept[position] = block
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > MAX_BYTES:
            self._kept.popitem(last=False)
        return position, block

    def _fetch_ahead(self, position: int) -> None:
        """Has the blocks from a position on fetched, as many as may be."""
        for start in range(position, min(position + NUM_AHEAD * BLOCK_BYTES, self._size), BLOCK_BYTES):
            if len(self._ahead) < NUM_AHEAD and start not in self._ahead and start not in self._kept:
                self._ahead[start] = self._attempt(start, min(start + BLOCK_BYTES, self._size))

    def _attempt(self, start: int, end: int) -> Attempt[bytes]:
        return Attempt(lambda: self._fetch(start, end))
