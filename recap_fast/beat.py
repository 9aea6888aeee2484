"""Small work that is done again and again beside a run, by a thread of its own, and never ends the run."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

END_S = 10.0
"""Seconds that the last time may take: a file system that hangs must not keep a process from ending."""


@contextlib.contextmanager
def every(
    seconds: float, action: Callable[[], object], last: Callable[[], object], what: str, end_s: float = END_S
) -> Iterator[Callable[[], None]]:
    """Calls `action` every so many seconds meanwhile, and `last` at the end, all in one thread. Gives a function that
    has the thread call `action` at once.

    An OSError is a warning that names `what` cannot be done, given once. `last` is left behind after `end_s`.
    """
    woken = threading.Event()
    ended = warned = False

    def attempt(once: Callable[[], object]) -> None:
        nonlocal warned
        try:
            once()
        except OSError as error:
            if not warned:
                logger.warning("%s: %s", what, error)
            warned = True

    def work() -> None:
        while True:
            woken.wait(seconds)
            woken.clear()
            if ended:
                break
            attempt(action)
        attempt(last)

    thread = threading.Thread(target=work, name="recap-beat", daemon=True)
    thread.start()
    try:
        yield woken.set
    finally:
        ended = True
        woken.set()
        thread.join(end_s)
