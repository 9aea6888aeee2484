"""SIGTERM, SIGINT and SIGUSR1 end a run in good order, at any moment and within a bounded time.

Before the engine runs, a signal ends it at once; while it runs, what is in flight may be finished. A second signal
stops at once. Where the process hangs in what no exception can end, such as a dead mount or a driver, a thread ends it.
"""

import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

from recap_fast.errors import ExitCode

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
STOPPED = "Stopped by a signal; the same command goes on from here."
GRACE_S = 10.0
"""Seconds beyond --drain-seconds in which what is finished may still be written."""
SAY_S = 1.0
"""Seconds in which a process that hangs may say that it ends: what hangs may be standard error."""


class Stopped(BaseException):
    """A signal came before there was anything to finish. Not an Exception, so that no library catches it."""


class Signals:
    """While this lasts, signals are handled; only in the main thread."""

    def __init__(self, drain_seconds: float):
        self.number: int | None = None
        """The first signal that came; None before."""
        self.say: Callable[..., None] = lambda event, text, **fields: None
        """Called to report a signal, as `Reporter.event` is."""
        self._drain_seconds = drain_seconds
        self._drain: Callable[[float], None] | None = None

    def drain_with(self, drain: Callable[[float], None]) -> None:
        """From now on a signal calls this with --drain-seconds and raises nothing. Raises Stopped if one has come."""
        self.check()
        self._drain = drain
        if self.number is not None:  # in between
            drain(self._drain_seconds)

    def check(self) -> None:
        """Raises Stopped if a signal has come: the one that its handler raised may be lost in a callback."""
        if self.number is not None:
            raise Stopped

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = {each: signal.signal(each, self._on_signal) for each in HANDLED}
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._end_in_time, name="recap-signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for each, handler in self._before.items():
            signal.signal(each, handler)
        os.close(self._writer)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        for each in HANDLED:
            signal.signal(each, signal.SIG_DFL)
        self.number = number
        name, drain = signal.Signals(number).name, self._drain
        if drain is None:
            self.say("drain", f"{name}: stopping", signal=name)
            raise Stopped
        drain(self._drain_seconds)
        text = f"{name}: finishing the captions in flight; a second signal stops at once"
        self.say("drain", text, signal=name)

    def _end_in_time(self) -> None:
        """Ends the process if the main thread does not: it may hang where no signal reaches it."""
        try:
            first = self._next_signal(None)
            second = self._next_signal(self._drain_seconds + GRACE_S) if first else b""
        finally:
            os.close(self._reader)
        if second is None:
            saying = threading.Thread(target=self.say, args=("drained", STOPPED), daemon=True)
            saying.start()
            saying.join(SAY_S)
            os._exit(ExitCode.DRAINED)
        if second:
            os._exit(128 + second[0])

    def _next_signal(self, timeout_s: float | None) -> bytes | None:
        """The number of the next signal as a byte; b'' at the end of the block, None if no signal came in time."""
        ready = select.select([self._reader], [], [], timeout_s)[0]
        return os.read(self._reader, 1) if ready else None
