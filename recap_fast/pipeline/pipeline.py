"""Joins the four stages: shards -> decode -> generate -> write. The only package that knows them all.

Three threads read, decode and write; the caller's thread runs the engine. The channels between them are bounded, and so
is what has been read but not yet written in order, so memory does not depend on the size of a shard or their number.
The batch never drains between images or shards: requests of several shards are in flight at once, and a shard is
finished when its last row is there.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing

from recap_fast.captioner.captioner import Captioner
from recap_fast.pipeline.channel import Channels, Window
from recap_fast.pipeline.counters import RunCounters
from recap_fast.pipeline.decoding import Decoding
from recap_fast.pipeline.generating import Generating
from recap_fast.pipeline.reading import OpenShard, Reading
from recap_fast.pipeline.writing import Writing
from recap_fast.records import Shard, ShardReport
from recap_fast.write.assembly import Assembly
from recap_fast.write.decode_notes import DecodeNotes
from recap_fast.write.ledger import Ledger


class Pipeline:
    """One run over a list of shards with one captioner."""

    def __init__(
        self,
        open_shard: OpenShard,
        captioner: Captioner,
        ledger: Ledger,
        counters: RunCounters,
        *,
        limit: int | None = None,
        window: int = 1024,
        window_bytes: int = 512 << 20,
    ):
        """`limit`: stop after so many samples. `window`: samples read and not yet written in order, at most.

        `window_bytes` bounds the memory that these take, their images until they are decoded; one sample may be larger.
        """
        self._channels = channels = Channels.make(Window(window, window_bytes))
        self._assembly = Assembly(ledger, captioner.detokenize, channels.window.leave, counters.finish_shard)
        shared = channels, counters, self._assembly
        self.reading = Reading(open_shard, *shared, limit)
        self.decoding = Decoding(captioner, *shared, DecodeNotes(ledger.output, ledger.is_complete))
        self.generating = Generating(captioner.engine, *shared)
        self.writing = Writing(*shared)

    def drain(self, seconds: float) -> None:
        """Takes no new work; what is in flight may finish within so many seconds. Signal handlers may call it."""
        self.generating.drain(seconds)

    @property
    def drained(self) -> bool:
        """Whether `drain` was called."""
        return self.generating.drained

    def run(self, shards: Sequence[Shard]) -> list[ShardReport]:
        """Captions the shards and reports on each. Raises EngineError, and OSError where output cannot be written."""
        with closing(self.decoding.notes.open()), ThreadPoolExecutor(3, "recap") as pool:
            writing = pool.submit(self._guard, self.writing.run, self._channels.rows.cancel)
            feeding: list[Future[None]] = []
            try:
                feeding.append(pool.submit(self._guard, lambda: self.reading.run(shards)))
                feeding.append(pool.submit(self._guard, self.decoding.run))
                self.generating.run()
            finally:  # also after an error: what is finished goes to disk
                self._channels.stop()
                try:
                    wait(feeding)
                except BaseException:  # a second Ctrl-C: nobody waits any more
                    self._channels.rows.cancel()
                    raise
                self._channels.rows.close()
            for stage in (*feeding, writing):
                stage.result()
        return self._assembly.reports

    def _guard(self, stage: Callable[[], None], give_up: Callable[[], None] = lambda: None) -> None:
        """Runs a stage; where it breaks, the others end too, and do not wait for it."""
        try:
            stage()
        except BaseException:
            give_up()
            self.generating.abandon()
            self._channels.stop()
            raise
