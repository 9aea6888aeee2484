"""Joins the four stages: shards -> decode -> generate -> write. No other package knows them all.

Three threads read, decode and write; the caller's thread runs the engine. The channels between them are bounded, and so
is what has been read but not yet written in order, so memory does not depend on the size of a shard or their number.
The batch never drains between images or shards: requests of several shards are in flight at once, and a shard is
finished when its last row is there.
"""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing

from recap_fast.captioner.captioner import Captioner
from recap_fast.pipeline.channel import Channels, Window
from recap_fast.pipeline.counters import Gauges, RunCounters
from recap_fast.pipeline.decoding import Decoding
from recap_fast.pipeline.generating import POLL_S, Generating
from recap_fast.pipeline.reading import Reading
from recap_fast.pipeline.writing import Writing
from recap_fast.records import Shard, ShardReport
from recap_fast.shards.ahead import OpenShard
from recap_fast.write.assembly import Assembly
from recap_fast.write.decode_notes import DecodeNotes
from recap_fast.write.ledger import Ledger

logger = logging.getLogger(__name__)


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
        dedup: bool = False,
    ):
        """`limit`: stop after so many samples. `window`: samples read and not yet written in order, at most.

        `window_bytes` bounds the memory that these take, their images until they are decoded; one sample may be larger.
        `dedup`: images of the same bytes are captioned once, as is right where captions are greedy.
        """
        self._channels = channels = Channels.make(Window(window, window_bytes))
        self._assembly = Assembly(ledger, captioner.detokenize, channels.window.leave, counters.finish_shard)
        shared = channels, counters, self._assembly
        self.reading = Reading(open_shard, *shared, limit)
        self.decoding = Decoding(captioner, *shared, DecodeNotes(ledger.output, ledger.is_complete), dedup)
        num_captions = captioner.prepared.prompts.captions_per_image
        self.generating = Generating(captioner.engine, *shared, self.decoding.once.settle, num_captions)
        self.writing = Writing(*shared)
        self._num_slots = captioner.engine.free_slots
        counters.read_gauges = self._gauges

    def drain(self, seconds: float) -> None:
        """Takes no new work; what is in flight may finish within so many seconds. Signal handlers may call it."""
        self.generating.drain(seconds)

    @property
    def drained(self) -> bool:
        """Whether `drain` was called."""
        return self.generating.drained

    @property
    def reports(self) -> list[ShardReport]:
        """Those on the shards that have ended so far. Any thread may look at it."""
        return self._assembly.reports

    def run(self, shards: Iterable[Shard]) -> list[ShardReport]:
        """Captions the shards and reports on each, in the order in which they ended. Raises EngineError, OSError where
        output cannot be written, and what the shards' iterator raises.

        Each shard is asked for when the one before it was read; a few remote tars earlier, to be fetched ahead. It may
        come late: captions go on meanwhile. One thread asks, and where the run is to end, nobody waits for its answer.
        """
        with closing(self.decoding.notes.open()):
            self._run(shards)
        return self._assembly.reports

    def _gauges(self) -> Gauges:
        """What the stages hold now. Any thread may ask: nothing is locked but the window."""
        channels = self._channels
        samples, num_bytes = channels.window.content
        queues = {"samples": len(channels.samples), "requests": len(channels.ready), "rows": len(channels.rows)}
        return Gauges(
            queues={**queues, "window": samples},
            window_bytes=num_bytes,
            slots=self._num_slots,
            slots_in_use=len(self.generating.in_flight),
            idle_s=dict(self.generating.engine.statistics.idle_s),
            open_shards=self._assembly.open_shards,
        )

    def _run(self, shards: Iterable[Shard]) -> None:
        writing = _Stage("recap-write", lambda: self._guard(self.writing.run, self._channels.rows.cancel))
        feeding: list[_Stage] = []
        try:
            feeding.append(_Stage("recap-feed", lambda: self._guard(lambda: self.reading.run(shards))))
            feeding.append(_Stage("recap-decode", lambda: self._guard(self.decoding.run)))
            self.generating.run()
        finally:  # also after an error: what is finished goes to disk
            self._channels.stop()
            try:
                self._wait(feeding)
            except BaseException:  # a second Ctrl-C: nobody waits any more
                self._channels.rows.cancel()
                raise
            self._channels.rows.close()
            writing.join()
        for stage in (*feeding, writing):
            if stage.error is not None:
                raise stage.error

    def _wait(self, feeding: Sequence["_Stage"]) -> None:
        """Waits for reading and decoding to end; where the run drains, no longer than it may."""
        for stage in feeding:
            while stage.is_alive():
                stage.join(POLL_S)
                if self.drained and time.monotonic() > self.generating.deadline + POLL_S:
                    logger.warning("the thread %s hangs, and the run ends without it", stage.name)
                    break

    def _guard(self, stage: Callable[[], None], give_up: Callable[[], None] = lambda: None) -> None:
        """Runs a stage; where it breaks, the others end too, and do not wait for it."""
        try:
            stage()
        except BaseException:
            give_up()
            self.generating.abandon()
            self._channels.stop()
            raise


class _Stage(threading.Thread):
    """The thread of a stage, started; it keeps no process from ending."""

    def __init__(self, name: str, action: Callable[[], None]):
        super().__init__(name=name, daemon=True)
        self._action, self._context = action, contextvars.copy_context()
        self.error: BaseException | None = None
        """The error that ended it."""
        self.start()

    def run(self) -> None:
        try:
            self._context.run(self._action)
        except BaseException as error:  # noqa: BLE001 - `Pipeline.run` raises it
            self.error = error
