"""Reads that may never end (a dead mount, a server that stops in the middle) get a deadline: so long without progress.

`patiently` runs one read in a thread of its own, and leaves that thread alone where the deadline passes: nothing else
ends a read that hangs in the system. Such threads are daemons, which keep no process from ending.
"""

import contextlib
import contextvars
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from recap_fast.errors import StoppedError

S = TypeVar("S")
T = TypeVar("T")
READ_TIMEOUT_S = 30.0
POLL_S = 0.1
"""How soon a wait notices that the run is stopping."""


class Watch:
    """On the progress of a thread that reads: whether it has brought nothing for too long, and is given up."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._last = time.monotonic()
        self._lock = threading.Lock()
        self._paused = self._given_up = False

    def progress(self) -> None:
        """The thread has got something."""
        self._last = time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile the thread waits for others, or works. Raises StoppedError where it was given up."""
        with self._lock:
            if self._given_up:
                raise StoppedError("it was given up")
            self._paused = True
        try:
            yield
        finally:
            self._last, self._paused = time.monotonic(), False

    def give_up_if_stalled(self) -> bool:
        """Whether nothing has come for so long that nobody waits for the thread any more."""
        with self._lock:
            self._given_up |= not self._paused and time.monotonic() - self._last > self._seconds
            return self._given_up


_seconds = contextvars.ContextVar("_seconds", default=READ_TIMEOUT_S)
_should_stop: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar("_should_stop", default=lambda: False)
_watch: contextvars.ContextVar[Watch | None] = contextvars.ContextVar("_watch", default=None)


@contextlib.contextmanager
def patience(seconds: float | None = None, should_stop: Callable[[], bool] | None = None) -> Iterator[None]:
    """Within this, reads may bring nothing for so long, and end with StoppedError once `should_stop` says so.

    It holds for this thread, and for those that `start` starts from it.
    """
    seconds_before = _seconds.set(_seconds.get() if seconds is None else seconds)
    stop_before = _should_stop.set(_should_stop.get() if should_stop is None else should_stop)
    try:
        yield
    finally:
        _seconds.reset(seconds_before)
        _should_stop.reset(stop_before)


def read_timeout() -> float:
    """Seconds that a read may bring nothing."""
    return _seconds.get()


def progress() -> None:
    """Something was read: whoever waits for this thread waits on."""
    if watch := _watch.get():
        watch.progress()


def check_stop() -> None:
    """Raises StoppedError where the run is stopping."""
    if _should_stop.get()():
        raise StoppedError("the run is stopping")


def pause(seconds: float) -> None:
    """Waits, but no longer than the run goes on. Raises StoppedError."""
    end = time.monotonic() + seconds
    with unwatched():
        while (left := end - time.monotonic()) > 0:
            check_stop()
            time.sleep(min(left, POLL_S))
    check_stop()


def unwatched() -> contextlib.AbstractContextManager[None]:
    """Within this, whoever waits for this thread waits on: what it does is no read, or has a deadline of its own."""
    watch = _watch.get()
    return watch.paused() if watch else contextlib.nullcontext()


def start(action: Callable[[], object], watch: Watch, name: str) -> threading.Thread:
    """Starts a thread whose `progress` the watch is on, and which keeps no process from ending."""
    context = contextvars.copy_context()
    context.run(_watch.set, watch)
    thread = threading.Thread(target=context.run, args=(action,), name=name, daemon=True)
    thread.start()
    return thread


class Attempt(Generic[T]):
    """An action on a thread of its own, which is left behind where it hangs."""

    def __init__(self, action: Callable[[], T]):
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._ended = threading.Event()
        self._watch = Watch(read_timeout())
        start(lambda: self._run(action), self._watch, "recap-wait")

    def result(self) -> T:
        """What the action returns or raises.

        Raises TimeoutError where it shows no `progress` for the read timeout, and StoppedError where the run is
        stopping: then its thread is left behind.
        """
        with unwatched():
            while not self._ended.wait(POLL_S):
                check_stop()
                if self._watch.give_up_if_stalled():
                    raise TimeoutError(f"nothing came for {read_timeout():g} s")
        if self._errors:
            raise self._errors[0]
        return self._results[0]

    def _run(self, action: Callable[[], T]) -> None:
        try:
            self._results.append(action())
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            self._errors.append(error)
        finally:
            self._ended.set()


def patiently(action: Callable[[], T]) -> T:
    """What an action returns or raises.

    Raises TimeoutError where it shows no `progress` for the read timeout, and StoppedError where the run is stopping:
    its thread is left behind, and what it returns one day is dropped.
    """
    check_stop()
    return Attempt(action).result()


def side_by_side(action: Callable[[S], T], items: Iterable[S], num_threads: int) -> list[T]:
    """What an action, which has deadlines of its own, returns for each item, in their order; several at a time.

    Raises what one of them raises, and StoppedError; then nobody waits for the others.
    """
    left = deque(enumerate(items))
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            try:
                index, item = left.popleft()
            except IndexError:
                return
            try:
                results[index] = action(item)
            except BaseException as error:  # noqa: BLE001 - it is raised below
                errors.append(error)

    threads = [start(work, Watch(math.inf), "recap-side") for _ in range(min(num_threads, len(left)))]
    try:
        with unwatched():
            for thread in threads:
                while thread.is_alive() and not errors:
                    check_stop()
                    thread.join(POLL_S)
    finally:
        left.clear()
    if errors:
        raise errors[0]
    return [results[index] for index in sorted(results)]
