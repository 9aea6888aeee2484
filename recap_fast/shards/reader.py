"""A shard of any kind as a stream of samples: the one door from `Shard` to `Sample`.

In goes a shard, out comes a reader that knows how many samples there are before it reads any image.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from recap_fast.addresses import is_remote, public_url, scrub
from recap_fast.errors import ShardError
from recap_fast.records import Identity, Sample, Selection, Shard
from recap_fast.shards.folder.reader import FolderReader
from recap_fast.shards.identity import identity
from recap_fast.shards.local import open_regular
from recap_fast.shards.patience import patience
from recap_fast.shards.remote.download import spool
from recap_fast.shards.tar.reader import TarReader

BUFFER_BYTES = 16 << 10
"""Of the tar's index: small members that follow one another come with one read."""


class ShardReader(Protocol):
    """An open shard."""

    num_samples: int
    identity: Identity
    """Of the input when it was opened."""
    problem: str | None
    """Why not all of the input could be read; final once `samples` is exhausted."""
    left_out: Mapping[str, int]
    """What of the input has no row, by reason; final once `samples` is exhausted."""

    def samples(self, done: NDArray[np.int64]) -> Iterator[Sample]:
        """The samples in order of their index, but for the indices in `done`."""

    def close(self) -> None: ...


def open_shard(
    shard: Shard, selection: Selection | None = None, should_stop: Callable[[], bool] = lambda: False
) -> AbstractContextManager[ShardReader]:
    """Opens a shard and, at the end of the context, closes it; till then a remote tar is a local file without a name.

    `should_stop` is asked again and again meanwhile. Raises StoppedError once it says so, and ShardError, naming the
    input, where it cannot be read at all.
    """
    with naming(shard), patience(should_stop=should_stop):
        return closing(_open(shard, selection or Selection(), should_stop))


@contextmanager
def naming(shard: Shard) -> Iterator[None]:
    """Within this, a ShardError names the input, once."""
    try:
        yield
    except ShardError as error:
        name, reason = public_url(shard.url), scrub(str(error))
        raise type(error)(reason if reason.startswith(f"{name} ") else f"{name} {reason}") from error


def _open(shard: Shard, selection: Selection, should_stop: Callable[[], bool]) -> ShardReader:
    version = identity(shard)
    if shard.kind == "folder":
        return FolderReader(shard, version)
    if shard.kind == "parquet":
        from recap_fast.shards.table.reader import TableReader  # pyarrow: only where a Parquet file is read

        table = TableReader(shard, version, selection)
        return _OneVersion(table, shard) if is_remote(shard.url) else table
    file, spooled = open_tar(shard, should_stop)
    try:
        return TarReader(shard, spooled or version, file, selection)  # it may have been replaced since
    except BaseException:
        file.close()
        raise


def open_tar(shard: Shard, should_stop: Callable[[], bool] = lambda: False) -> tuple[IO[bytes], Identity | None]:
    """A tar as a local file, and of a remote one, which is a copy, which version that is if the server says it.

    Raises as `open_shard` does.
    """
    return spool(shard.url, should_stop) if is_remote(shard.url) else (_open_file(shard.url), None)


class _OneVersion:
    """A remote Parquet file, which is read by and by and may be replaced meanwhile."""

    def __init__(self, reader: ShardReader, shard: Shard):
        self._reader, self._shard = reader, shard
        self.num_samples, self.identity, self.problem = reader.num_samples, reader.identity, reader.problem
        self.left_out: Mapping[str, int] = {}
        self.close = reader.close

    def samples(self, done: NDArray[np.int64]) -> Iterator[Sample]:
        """Those of the reader, and then the question whether they are of one version."""
        yield from self._reader.samples(done)
        self.problem, self.left_out = self._reader.problem, self._reader.left_out
        if self.problem is None and identity(self._shard) != self.identity:
            self.problem = "it was replaced while it was read: its rows may be of either version"


def _open_file(path: str) -> IO[bytes]:
    try:
        return io.BufferedReader(open_regular(path), BUFFER_BYTES)
    except OSError as error:
        raise ShardError(f"cannot be read: {error}") from error
