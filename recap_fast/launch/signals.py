"""Signals that end a run in good order."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from recap_fast.launch.reporter import Reporter


@contextmanager
def draining(drain: Callable[[], None], reporter: Reporter) -> Iterator[None]:
    """While this lasts, SIGTERM, SIGINT and SIGUSR1 drain the run; a second one kills the process as if uncaught."""
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def on_signal(number: int, _: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_DFL)
        name = signal.Signals(number).name
        reporter.event("drain", f"{name}: finishing the captions in flight; a second signal stops at once", signal=name)
        drain()

    before = {each: signal.signal(each, on_signal) for each in handled}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
