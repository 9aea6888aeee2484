"""How many rows the start of a remote tar has. Headers lie among the images: a request for each would take hours.

In goes a tar of known size, out come rows and the bytes that they take.
"""

import os
import tempfile
from typing import IO, NamedTuple

from recap_fast.records import Identity, Selection, Shard
from recap_fast.shards.remote.access import RemoteFile
from recap_fast.shards.tar.reader import TarReader

START_BYTES, MOST_BYTES = 16 << 20, 256 << 20
"""So much of a tar is read, and four times as much where that has few rows, up to the most."""
FEW_ROWS = 64
_CHUNK_BYTES = 1 << 20


class Start(NamedTuple):
    """What the first bytes of a tar have."""

    rows: int
    """Without the last one if the bytes end within it."""
    num_bytes: int
    problem: str | None
    """Why the tar cannot be read on; None where it just goes on."""


def count_start(shard: Shard, size_bytes: int, selection: Selection) -> Start:
    """Counts in the whole tar if it is small. Raises ShardError where it is no tar, and as `RemoteFile` does."""
    with tempfile.TemporaryFile(prefix="recap-fast-") as file, RemoteFile(shard.url) as remote:
        wanted = START_BYTES
        while True:
            _copy(remote, file, min(wanted, size_bytes))
            reader = TarReader(shard, Identity(size_bytes, ""), file, selection)
            if wanted >= size_bytes:
                return Start(reader.num_samples, size_bytes, reader.problem)
            if reader.num_samples > FEW_ROWS or wanted >= MOST_BYTES:
                return Start(max(reader.num_samples - 1, 0), wanted, None)
            wanted *= 4


def _copy(remote: RemoteFile, file: IO[bytes], wanted: int) -> None:
    """Appends what a file lacks of so many bytes."""
    start = file.seek(0, os.SEEK_END)
    remote.seek(start)
    while start < wanted and (chunk := remote.read(min(_CHUNK_BYTES, wanted - start))):
        start += file.write(chunk)
    file.flush()
