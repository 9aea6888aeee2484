"""A worker's side of its talk with the coordinator: shards come in, reports, counters and log records go out."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from recap_fast.addresses import is_remote, scrub
from recap_fast.launch.cluster.protocol import Answer, Message, Saying, Tally, unpack
from recap_fast.records import Shard, ShardReport

ROOM_S = 0.02
"""Between two looks whether there is room for a shard."""
MAX_SAID = 100
"""Log records that wait for the next call; the oldest are dropped."""


class Line(Protocol):
    """Calls the coordinator, and again where it was started again meanwhile."""

    def take(self, message: Message) -> Answer:
        """As `Coordinator.take`."""

    def beat(self, message: Message) -> Answer:
        """As `Coordinator.beat`."""


class Link:
    """Talks with the coordinator. One call at a time, so that each message knows what the answer before it brought."""

    def __init__(self, line: Line, message: Message, age_s: Callable[[], float], drain: Callable[[float], None]):
        """`message` is what never changes of the worker. `drain` is called when it has to end, more than once."""
        self._line, self._message, self._age_s, self._drain = line, message, age_s, drain
        self._lock = threading.Lock()
        self._holds: dict[str, None] = {}
        self._reports: list[ShardReport] = []
        self._sent = 0
        """Of the reports."""
        self._instance: str | None = None
        self._said: deque[Saying] = deque(maxlen=MAX_SAID)
        self._is_ending = False  # no Event: a signal handler sets it
        self.new_reports: Callable[[], Sequence[ShardReport]] = tuple
        """Gives the reports that have come since it was last asked."""
        self.tally: Callable[[], Tally | None] = lambda: None

    def describe(self, **fields: object) -> None:
        """Says more of the worker from now on."""
        self._message = replace(self._message, **fields)  # type: ignore[arg-type]

    def say(self, saying: Saying) -> None:
        """A log record for the driver."""
        self._said.append(saying)

    def report(self, report: ShardReport) -> None:
        """A shard that has ended."""
        with self._lock:
            self._note(report)

    def shards(self, has_room: Callable[[], bool]) -> Iterator[tuple[Shard, Answer]]:
        """Shards, until there is none for this worker: each is asked for when the one before it was taken and there is
        room. A remote tar is asked for earlier: it has to be fetched, and only so many are at once."""
        is_fetched = False
        while not self._is_ending:
            if not is_fetched and not has_room():
                time.sleep(ROOM_S)
                continue
            answer = self._call(self._line.take)
            if answer.shard is not None:
                shard = unpack(answer.shard)
                is_fetched = shard.kind == "tar" and is_remote(shard.url)
                yield shard, answer
            elif answer.wait:
                time.sleep(answer.pause_s)
            else:
                return

    def end(self) -> None:
        """No shard is asked for any more. Signal handlers may call it."""
        self._is_ending = True

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Meanwhile the coordinator hears of the worker, from a thread; and at the end what it has not heard yet."""
        stop = threading.Event()

        def beat() -> None:
            pause_s = 0.0
            while not stop.wait(pause_s):
                pause_s = self._call(self._line.beat).pause_s

        def beat_or_end() -> None:
            try:
                beat()
            except Exception:
                logging.getLogger(__name__).exception("the coordinator cannot be reached, so this worker ends")
                self.end()
                self._drain(0.0)

        thread = threading.Thread(target=beat_or_end, name="recap-beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.end()
            stop.set()
            thread.join()
        self._call(self._line.beat)

    def _call(self, method: Callable[[Message], Answer]) -> Answer:
        with self._lock:
            answer = self._exchange(method)
            if answer.drain_s is not None:
                self.end()
        if answer.drain_s is not None:
            self._drain(answer.drain_s)
        return answer

    def _exchange(self, method: Callable[[Message], Answer]) -> Answer:
        for report in self.new_reports():
            self._note(report)
        num, said = len(self._reports), tuple(self._said)
        message = replace(
            self._message,
            age_s=self._age_s(),
            holds=tuple(self._holds),
            reports=tuple(self._reports[self._sent :]),
            tally=self.tally(),
            said=said,
        )
        answer = method(message)
        for _ in said:
            self._said.popleft()
        self._sent = num if self._instance in (None, answer.instance) else 0  # one that was started again knows nothing
        self._instance = answer.instance
        if answer.shard is not None:
            self._holds[unpack(answer.shard).name] = None
        return answer

    def _note(self, report: ShardReport) -> None:
        self._holds.pop(report.shard, None)
        self._reports.append(replace(report, files={}))  # a thousand names, which are in the done-record


class Forwarding(logging.Handler):
    """Sends the program's own log records to the driver."""

    def __init__(self, link: Link):
        super().__init__(logging.INFO)
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        """Hands a record over; a traceback follows where it has one."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self._link.say(Saying(record.levelno, record.name, scrub(text)))
