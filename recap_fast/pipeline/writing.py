"""The writing thread: finished rows in, in any order; shards on disk out."""

from recap_fast.pipeline.channel import Channel
from recap_fast.pipeline.counters import RunCounters
from recap_fast.records import Row
from recap_fast.write.assembly import Assembly, EndOfShard

WRITE_BATCH = 16
IDLE_S = 1.0


class Writing:
    """Takes all rows there are until the end, also while the run is stopping."""

    def __init__(self, assembly: Assembly, counters: RunCounters, rows: "Channel[Row | EndOfShard]"):
        self._assembly, self._counters, self._rows = assembly, counters, rows

    def run(self) -> None:
        """Writes until the last row has come. Raises OSError where output cannot be written."""
        while not self._rows.is_finished:
            items = self._rows.take(WRITE_BATCH, IDLE_S)
            if not items:
                self._assembly.flush_old()
            for item in items:
                with self._counters.busy("write"):
                    self._write(item)
        self._assembly.close()

    def _write(self, item: Row | EndOfShard) -> None:
        if isinstance(item, EndOfShard):
            self._assembly.end(item)
        else:
            self._counters.count(item.status, item.completion)
            self._assembly.add(item)
