"""Runs into a bucket, and the proof that they are as one into a local folder."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from support.runs import Command, Server, read_rows
from support.s3_server import S3Server


@dataclass
class CloudOutput:
    """An output in a bucket, and what may be asked of it behind the back of recap-fast."""

    address: str
    """s3://..."""
    server: Server
    store: S3Server
    folder: Path
    """Of this machine, for copies."""
    _numbers: Any = field(default_factory=itertools.count)

    def files(self) -> dict[str, bytes]:
        return self.store.files(self.address)

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.store.copy(self.address, self.folder / str(next(self._numbers))))

    def written_rows(self) -> list[dict[str, Any]]:
        """All rows of finished and of unfinished shards."""
        copy = self.store.copy(self.address, self.folder / str(next(self._numbers)))
        return [row for file in sorted(copy.rglob("*.parquet")) for row in pq.ParquetFile(file).read().to_pylist()]

    def assert_whole(self, rows: list[dict[str, Any]], *shards: object) -> None:
        """The rows are these, nothing is left over, and `verify` agrees; with inputs, also about each image."""
        assert self.rows() == rows
        assert not [name for name in self.files() if name.startswith("partial/") and name.endswith(".parquet")]
        succeed(self.server.run("verify", self.address, *(each for shard in shards for each in ("--shards", shard))))


def succeed(command: Command) -> Command:
    """A command at its end, which must be a good one."""
    assert command.wait() == 0, command.stdout + command.stderr
    return command
