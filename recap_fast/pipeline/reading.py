"""The reading thread: shards in, rows with their samples out.

It has another thread read and watches it: where nothing comes for the read timeout, as from a dead mount, that thread
is left alone, its shard has failed, and another one goes on with the next.
"""

import logging
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from recap_fast.addresses import scrub
from recap_fast.errors import OutputGoneError, RecapError, StoppedError
from recap_fast.pipeline.channel import Channels
from recap_fast.pipeline.counters import RunCounters
from recap_fast.records import Row, Shard
from recap_fast.shards.ahead import OpenShard, ReadAhead, Upcoming
from recap_fast.shards.patience import POLL_S, Watch, patience, read_timeout, start
from recap_fast.write.assembly import Assembly, EndOfShard

logger = logging.getLogger(__name__)

END_S = 1.0
"""Seconds in which what is being read when the run stops may end by itself."""


@dataclass
class Turn:
    """What one thread has read, until it ends or is given up."""

    watch: Watch = field(default_factory=lambda: Watch(read_timeout()))
    shard: Shard | None = None
    """The shard being read."""
    is_open: bool = False
    """Whether the shard was opened."""
    total: int = 0
    """Samples of the shard that were sent on."""
    error: BaseException | None = None
    """The error that ended it."""


@dataclass
class Reading:
    """Reads shards one after another, no further ahead than the window and the channel allow."""

    open_shard: OpenShard
    channels: Channels
    counters: RunCounters
    assembly: Assembly
    limit: int | None
    num_read: int = 0
    was_last: bool = False
    """Whether no shard is left."""

    def run(self, shards: Iterable[Shard]) -> None:
        """Reads until all is read, the limit is reached or the run stops.

        A shard is asked for when it is to be read, or to be fetched ahead, and no more when the run is to end. It may
        come late: where the run stops meanwhile, nobody waits for it.
        """
        with closing(ReadAhead(shards, self.open_shard, self._is_stopping)) as ahead:
            while not self._is_over():
                self._take_turn(ahead)
        self.channels.samples.close()

    def _is_stopping(self) -> bool:
        return self.channels.samples.is_cancelled

    def _is_over(self) -> bool:
        return self.was_last or self._is_stopping() or self.num_read == self.limit

    def _take_turn(self, ahead: ReadAhead) -> None:
        """Has a thread read until it ends or is given up."""
        turn = Turn()
        with patience(should_stop=self._is_stopping):
            thread = start(lambda: self._read_all(ahead, turn), turn.watch, "recap-read")
        while thread.is_alive():
            if self._is_stopping():
                thread.join(END_S)
                return
            if turn.watch.give_up_if_stalled():
                self._give_up(turn)
                return
            thread.join(POLL_S)
        if turn.error is not None:
            raise turn.error

    def _give_up(self, turn: Turn) -> None:
        if turn.shard is not None:
            problem = f"nothing came from it for {read_timeout():g} s (--read-timeout)"
            logger.warning("shard %s: %s", turn.shard.name, problem)
            self._end(turn, EndOfShard(turn.shard, turn.total, True, problem))

    def _read_all(self, ahead: ReadAhead, turn: Turn) -> None:
        try:
            while not self._is_over():
                with turn.watch.paused():
                    upcoming = ahead.take()
                    if upcoming is None:
                        self.was_last = True
                        return
                    turn.shard, turn.is_open, turn.total = upcoming.shard, False, 0
                self._read(upcoming, turn)
        except StoppedError:
            return  # given up, or the run is stopping
        except BaseException as error:  # noqa: BLE001 - the thread that waits for this one raises it
            turn.error = error

    def _read(self, upcoming: Upcoming, turn: Turn) -> None:
        shard, whole, problem, unexpected = upcoming.shard, True, None, None
        left_out: Mapping[str, int] = {}
        try:
            with upcoming.open() as reader:
                with turn.watch.paused():
                    done = self.assembly.begin(shard, reader.identity)
                    self.counters.start_shard(reader.num_samples, len(done))
                    turn.is_open = True
                samples = self.counters.timed(
                    "read", reader.samples(done), lambda seconds: self.assembly.spend(shard.name, "read", seconds)
                )
                for sample in samples:
                    with turn.watch.paused():
                        if self.num_read == self.limit or not self._send(Row(order=turn.total, sample=sample)):
                            whole = False
                            break
                        turn.total += 1
                problem, left_out = reader.problem and scrub(reader.problem), reader.left_out
        except StoppedError:
            return  # before it was opened: as if not begun
        except OutputGoneError:
            raise
        except Exception as error:  # noqa: BLE001 - the shard boundary: no shard, however broken, ends the run
            unexpected = None if isinstance(error, RecapError | OSError) else error
            problem = scrub(f"{type(error).__name__}: {error}" if unexpected else str(error))
        with turn.watch.paused():
            if problem:
                logger.warning("shard %s: %s", shard.name, problem, exc_info=unexpected)
            self._end(turn, EndOfShard(shard, turn.total, whole, problem, left_out))

    def _end(self, turn: Turn, end: EndOfShard) -> None:
        if not turn.is_open:
            self.counters.skip_shard()
        self.channels.rows.put(end)

    def _send(self, row: Row) -> bool:
        """Sends a row on its way; False where the run is stopping."""
        if not self.channels.window.enter(row.text_bytes + len(row.sample.image)):
            return False
        self.num_read += 1
        return self.channels.samples.put(row)
