"""The reading thread: shards in, rows with their samples out."""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from recap_fast.errors import RecapError, StoppedError
from recap_fast.pipeline.channel import Channels
from recap_fast.pipeline.counters import RunCounters
from recap_fast.records import Row, Shard
from recap_fast.shards.reader import ShardReader
from recap_fast.write.assembly import Assembly, EndOfShard

logger = logging.getLogger(__name__)

OpenShard = Callable[[Shard, Callable[[], bool]], AbstractContextManager[ShardReader]]
"""Opens a shard; the second argument is asked again and again meanwhile whether to stop, with a StoppedError."""


@dataclass
class Reading:
    """Reads shards one after another, no further ahead than the window and the channel allow."""

    open_shard: OpenShard
    channels: Channels
    counters: RunCounters
    assembly: Assembly
    limit: int | None
    num_read: int = 0

    def run(self, shards: Iterable[Shard]) -> None:
        """Reads until all is read, the limit is reached or the run stops."""
        for shard in shards:
            if self.channels.samples.is_cancelled or self.num_read == self.limit:
                break
            self._read(shard)
        self.channels.samples.close()

    def _read(self, shard: Shard) -> None:
        whole, total, problem = True, 0, None
        left_out: Mapping[str, int] = {}
        try:
            with self.open_shard(shard, lambda: self.channels.samples.is_cancelled) as reader:
                done = self.assembly.begin(shard, reader.identity)
                self.counters.start_shard(reader.num_samples, len(done))
                samples = self.counters.timed(
                    "read", reader.samples(done), lambda seconds: self.assembly.spend(shard.name, "read", seconds)
                )
                for sample in samples:
                    if self.num_read == self.limit or not self._send(Row(order=total, sample=sample)):
                        whole = False
                        break
                    total += 1
                problem, left_out = reader.problem, reader.left_out
        except StoppedError:
            return  # before it was opened: as if not begun
        except Exception as error:  # the shard boundary: no shard, however broken, ends the run
            known = isinstance(error, RecapError | OSError)
            problem = str(error) if known else f"{type(error).__name__}: {error}"
            logger.warning("shard %s: %s", shard.name, problem, exc_info=not known)
        self.channels.rows.put(EndOfShard(shard, total, whole, problem, left_out))

    def _send(self, row: Row) -> bool:
        """Sends a row on its way; False where the run is stopping."""
        if not self.channels.window.enter(row.text_bytes + len(row.sample.image)):
            return False
        self.num_read += 1
        return self.channels.samples.put(row)
