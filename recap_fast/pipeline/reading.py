"""The reading thread: shards in, rows with their samples out."""

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from recap_fast.errors import RecapError, StoppedError
from recap_fast.pipeline.channel import Channel
from recap_fast.pipeline.counters import RunCounters
from recap_fast.records import Row, Shard
from recap_fast.shards.reader import ShardReader
from recap_fast.write.assembly import Assembly, EndOfShard

logger = logging.getLogger(__name__)

OpenShard = Callable[[Shard, Callable[[], bool]], AbstractContextManager[ShardReader]]
"""Opens a shard; the second argument is asked again and again meanwhile whether to stop, with a StoppedError."""


class Reading:
    """Reads shards one after another, no further ahead than the window and the channel allow."""

    def __init__(
        self,
        open_shard: OpenShard,
        assembly: Assembly,
        counters: RunCounters,
        window: Channel[None],
        samples: Channel[Row],
        rows: "Channel[Row | EndOfShard]",
        limit: int | None,
    ):
        self._open_shard = open_shard
        self._assembly, self._counters, self._window = assembly, counters, window
        self._samples, self._rows = samples, rows
        self._limit = limit
        self.num_read = 0

    def run(self, shards: Iterable[Shard]) -> None:
        """Reads until all is read, the limit is reached or the run stops."""
        for shard in shards:
            if self._samples.is_cancelled or self.num_read == self._limit:
                break
            self._read(shard)
        self._samples.close()

    def _read(self, shard: Shard) -> None:
        whole, total, problem = True, 0, None
        try:
            with self._open_shard(shard, lambda: self._samples.is_cancelled) as reader:
                done = self._assembly.begin(shard, reader.identity)
                self._counters.start_shard(reader.num_samples, len(done))
                samples = self._counters.timed(
                    "read", reader.samples(done), lambda seconds: self._assembly.spend(shard.name, "read", seconds)
                )
                for sample in samples:
                    if self.num_read == self._limit or not self._send(Row(order=total, sample=sample)):
                        whole = False
                        break
                    total += 1
                problem = reader.problem
        except StoppedError:
            return  # before it was opened: as if not begun
        except Exception as error:  # the shard boundary: no shard, however broken, ends the run
            known = isinstance(error, RecapError | OSError)
            problem = str(error) if known else f"{type(error).__name__}: {error}"
            logger.warning("shard %s: %s", shard.name, problem, exc_info=not known)
        self._rows.put(EndOfShard(shard, total, whole, problem))

    def _send(self, row: Row) -> bool:
        """Sends a row on its way; False where the run is stopping."""
        if not self._window.put(None):
            return False
        self.num_read += 1
        return self._samples.put(row)
