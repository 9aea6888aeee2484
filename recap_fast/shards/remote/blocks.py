"""A remote file that is read in places, by few requests: a Parquet file is read in small pieces, column by column.

Where a read goes on from an earlier one, more is fetched than was asked for, and what follows is fetched meanwhile.
"""

from collections import OrderedDict
from collections.abc import Callable

from recap_fast.shards.patience import Attempt

BLOCK_BYTES = 4 << 20
"""A request takes some 30 ms until bytes come, in which a connection could bring 2 to 3 MB."""
MAX_BYTES = 32 << 20
"""What is kept: the columns of a table take turns."""
MAX_AHEAD = 4
"""Blocks that are fetched ahead at once."""


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
        content, end = bytearray(), min(self._position + num_bytes, self._size)
        while self._position < end:
            start, block = self._block(self._position, end)
            piece = block[self._position - start : end - start]
            content += piece
            self._position += len(piece)
        return bytes(content)

    def _block(self, position: int, end: int) -> tuple[int, bytes]:
        """What is kept from a position on, with its own first one; it is fetched where nothing is."""
        for start, block in self._kept.items():
            if start <= position < start + len(block):
                self._kept.move_to_end(start)
                return start, block
        goes_on = any(start + len(block) == position for start, block in self._kept.items())
        if (attempt := self._ahead.pop(position, None)) is not None:
            block = attempt.result()
        else:
            block = self._fetch(position, min(max(end, position + BLOCK_BYTES) if goes_on else end, self._size))
        if not block:
            raise EOFError(f"nothing came from byte {position:,} on")
        self._keep(position, block)
        if goes_on:
            self._fetch_ahead(position + len(block))
        return position, block

    def _keep(self, position: int, block: bytes) -> None:
        self._kept[position] = block
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > MAX_BYTES:
            self._kept.popitem(last=False)

    def _fetch_ahead(self, position: int) -> None:
        end = min(position + BLOCK_BYTES, self._size)
        if position < end and position not in self._ahead:
            while len(self._ahead) >= MAX_AHEAD:
                del self._ahead[next(iter(self._ahead))]
            self._ahead[position] = Attempt(lambda: self._fetch(position, end))
