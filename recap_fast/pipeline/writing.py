"""The writing thread: finished rows in, in any order; shards on disk out."""

from dataclasses import dataclass

from recap_fast.pipeline.channel import Channels
from recap_fast.pipeline.counters import RunCounters
from recap_fast.records import Row
from recap_fast.write.assembly import Assembly, EndOfShard

WRITE_BATCH = 16
IDLE_S = 1.0


@dataclass
class Writing:
    """Takes all rows there are until the end, also while the run is stopping."""

    channels: Channels
    counters: RunCounters
    assembly: Assembly

    def run(self) -> None:
        """Writes until the last row has come. Raises OSError where output cannot be written."""
        while not self.channels.rows.is_finished:
            items = self.channels.rows.take(WRITE_BATCH, IDLE_S)
            if not items:
                self.assembly.flush_old()
            for item in items:
                with self.counters.busy("write"):
                    self._write(item)
        self.assembly.close()

    def _write(self, item: Row | EndOfShard) -> None:
        if isinstance(item, EndOfShard):
            self.assembly.end(item)
        else:
            self.counters.count(item.status, item.completions, is_shared=item.duplicate_of is not None)
            self.assembly.add(item)
