"""Iterators whose items other threads make, up to a given number ahead."""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from recap_fast.errors import RecapError
from recap_fast.pipeline.channel import Channel
from recap_fast.shards.patience import POLL_S, Watch, patience, start

S = TypeVar("S")
T = TypeVar("T")


class StalledError(RecapError):
    """Nothing came from an iterator for too long; its thread is left alone."""


def mapped(action: Callable[[S], T], items: Iterable[S], num_threads: int) -> Iterator[T]:
    """The results of an action for each item, in order. `num_threads` work at a time; for each, one more item waits."""
    made: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(num_threads, "recap-score")
    try:
        for item in items:
            made.append(pool.submit(action, item))
            if len(made) == 2 * num_threads:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def ahead(items: Generator[T], capacity: int, name: str, timeout_s: float = math.inf) -> Iterator[T]:
    """The items, made on a thread called `name`, of which at most `capacity` wait at a time.

    What making them raises is raised here, behind the items that were made before; StalledError where the thread
    neither makes one nor reports `patience.progress` for `timeout_s`. Where the caller takes no more, the thread ends
    at its next item.
    """
    channel: Channel[T] = Channel(capacity)
    watch = Watch(timeout_s)
    errors: list[BaseException] = []

    def make() -> None:
        try:
            with contextlib.closing(items):
                for item in items:
                    with watch.paused():
                        if not channel.put(item):
                            return
        except BaseException as error:  # noqa: BLE001 - it is raised where the items are taken
            errors.append(error)
        finally:
            channel.close()

    with patience(should_stop=lambda: channel.is_cancelled):
        start(make, watch, name)
    try:
        while not channel.is_finished:
            taken = channel.take(1, POLL_S)
            if not taken and watch.give_up_if_stalled():
                raise StalledError(f"nothing came for {timeout_s:g} s (--read-timeout)")
            yield from taken
        if errors:
            raise errors[0]
    finally:
        channel.cancel()
