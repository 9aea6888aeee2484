"""Remote tars, opened while those before them are read; where the network is slower than the engine, several at once.

In go shards, from an iterator that may block; out come the same ones in their order, to be opened in their turn. Other
inputs are not touched before that: a local one need not be fetched, and of a Parquet file only parts are.
"""

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from recap_fast.addresses import is_remote
from recap_fast.errors import StoppedError
from recap_fast.records import Shard
from recap_fast.shards.identity import identity
from recap_fast.shards.patience import POLL_S, Attempt, Watch, patience, start, unwatched
from recap_fast.shards.reader import ShardReader, naming
from recap_fast.shards.remote.download import NoRoomError, has_room

OpenShard = Callable[[Shard, Callable[[], bool]], AbstractContextManager[ShardReader]]
"""Opens a shard; the second argument is asked again and again meanwhile whether to stop, with a StoppedError."""
MAX_AHEAD = 4
"""Tars that are fetched at once, beside the one that is read. One connection to S3 brings 85 to 90 MB/s, says AWS, so
these bring some 3,400 images of 100 kB a second. More of them would hold work back from the other workers of a cluster
when it comes to its end."""


@dataclass(eq=False)
class Upcoming:
    """A shard whose turn comes."""

    shard: Shard
    _ahead: "ReadAhead"
    attempt: Attempt[None] | None = None
    """To open it before its turn."""
    size_bytes: float = 0.0
    """What its spool takes; infinite where its server does not say."""
    is_due: bool = False
    """Whether its turn has come."""
    is_admitted: bool = False
    """Whether there is room for it, so that the next one may be looked at."""
    is_over: bool = False
    """Whether the attempt is."""
    opened: AbstractContextManager[ShardReader] | None = None
    is_dropped: bool = False

    def open(self) -> AbstractContextManager[ShardReader]:
        """Opens it, or waits until it is open; within the read timeout. Raises what opening it raises."""
        if self.attempt is None:
            return self._ahead.open_now(self.shard)
        try:
            self.attempt.result()
        except NoRoomError:  # others needed the disk then
            return self._ahead.open_now(self.shard)
        except BaseException:
            self._ahead.drop(self)
            raise
        opened, self.opened = self.opened, None
        assert opened is not None
        return opened


class ReadAhead:
    """Asks for a shard when it is needed, or when one more remote tar may be fetched.

    One is fetched while another is read. Each time that the reader has to wait for one, another may be fetched beside
    it, up to `MAX_AHEAD`. None is, where the disk has no room for it yet. One thread of its own asks the iterator.
    """

    def __init__(self, shards: Iterable[Shard], open_shard: OpenShard, should_stop: Callable[[], bool]):
        self._shards, self._open_shard, self._should_stop = iter(shards), open_shard, should_stop
        self._changed = threading.Condition()
        self._queue: deque[Upcoming] = deque()
        self._last: Upcoming | None = None
        """Of those that were asked for."""
        self._due: Upcoming | None = None
        self._depth = 1
        self._is_waiting = self._is_exhausted = self._is_closed = False
        self._error: BaseException | None = None
        with patience(should_stop=self._is_over):
            start(self._feed, Watch(math.inf), "recap-ahead")

    def take(self) -> Upcoming | None:
        """The shard whose turn it is; None where there is none any more. One thread may ask at a time.

        Raises StoppedError where it was closed or the run stops, and what the iterator raises.
        """
        with self._changed:
            if self._queue and not self._queue[0].is_over:
                self._depth = min(self._depth + 1, MAX_AHEAD)
            self._is_waiting = True
            self._changed.notify_all()
            self._wait_for(lambda: bool(self._queue) or self._is_exhausted)
            self._is_waiting = False
            if self._error is not None and not self._queue:
                raise self._error
            self._due = self._queue.popleft() if self._queue else None
            if self._due is not None:
                self._due.is_due = True
            self._changed.notify_all()
            return self._due

    def open_now(self, shard: Shard) -> AbstractContextManager[ShardReader]:
        """Opens a shard on the caller's thread."""
        return self._open_shard(shard, self._is_over)

    def drop(self, upcoming: Upcoming) -> None:
        """Nobody wants it any more: it is closed, now or as soon as it is open."""
        with self._changed:
            upcoming.is_dropped, opened, upcoming.opened = True, upcoming.opened, None
        with opened or contextlib.nullcontext():
            pass

    def close(self) -> None:
        """Stops what is fetched, and asks for no more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            left = list(self._queue)
        for upcoming in left:
            self.drop(upcoming)

    def _is_over(self) -> bool:
        return self._is_closed or self._should_stop()

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        while not self._is_over():
            if condition():
                return
            self._changed.wait(POLL_S)
        raise StoppedError("the run is stopping")

    def _feed(self) -> None:
        try:
            while not self._is_exhausted:
                with self._changed:
                    self._wait_for(self._wants_another)
                self._add(next(self._shards, None))
        except BaseException as error:  # noqa: BLE001 - `take` raises it
            with self._changed:
                self._error = None if isinstance(error, StoppedError) else error
                self._is_exhausted = True
                self._changed.notify_all()

    def _wants_another(self) -> bool:
        if not self._queue and self._is_waiting:
            return True
        last = self._last
        is_fetched = last is not None and last.attempt is not None and (last.is_admitted or last.is_over)
        return is_fetched and len(self._queue) < self._depth

    def _add(self, shard: Shard | None) -> None:
        with self._changed:
            if shard is None or self._is_over():
                self._is_exhausted = True
            else:
                self._last = added = Upcoming(shard, self)
                if shard.kind == "tar" and is_remote(shard.url):
                    added.attempt = Attempt(lambda: self._open_ahead(added))
                self._queue.append(added)
            self._changed.notify_all()

    def _open_ahead(self, upcoming: Upcoming) -> None:
        try:
            self._admit(upcoming)
            opened = self._open_shard(upcoming.shard, self._is_over)
            with self._changed:
                upcoming.opened = opened
                is_dropped = upcoming.is_dropped
            if is_dropped:
                self.drop(upcoming)
        finally:
            with self._changed:
                upcoming.is_over = True
                self._changed.notify_all()

    def _admit(self, upcoming: Upcoming) -> None:
        """Waits until the disk has room for it beside those that are being fetched, or its turn has come."""
        with naming(upcoming.shard):
            size_bytes = identity(upcoming.shard).size_bytes or math.inf
        with unwatched(), self._changed:
            self._wait_for(lambda: upcoming.is_due or has_room(size_bytes + self._promised_bytes()))
            upcoming.size_bytes, upcoming.is_admitted = size_bytes, True
            self._changed.notify_all()

    def _promised_bytes(self) -> float:
        """Of the disk, to those that are being fetched; what they have written of it counts twice."""
        taken = [*self._queue] if self._due is None else [self._due, *self._queue]
        return sum(upcoming.size_bytes for upcoming in taken if not upcoming.is_over)
