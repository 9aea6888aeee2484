"""Keeps an engine full for whoever captions with it: rows come out in the order in which their images went in.

Several threads may do so at once. Each puts its requests into the same engine, and whoever steps it hands out what
ended, also to the others.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

from recap_fast.generate.engine import Engine
from recap_fast.records import Completion, Request, Row

READ_BATCH = 32
"""Images decoded at once."""
READ_AHEAD = 2
"""Batches that are being decoded while the engine works."""
T = TypeVar("T")


class SharedEngine:
    """An engine that several threads use."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._lock = threading.Lock()
        self._owners: dict[int, dict[int, Completion]] = {}

    def step(self, waiting: deque[Request], done: dict[int, Completion]) -> None:
        """Hands over as many waiting requests as there is room for, and moves all captions on by one token.

        Completions go into the `done` of whoever handed over their request. Raises EngineError.
        """
        with self._lock:
            if room := min(self.engine.free_slots, len(waiting)):
                joining = [waiting.popleft() for _ in range(room)]
                self.engine.submit(joining)
                self._owners.update({request.id: done for request in joining})
            if self._owners:
                for completion in self.engine.step():
                    self._owners.pop(completion.id)[completion.id] = completion


class Stream(Generic[T]):
    """One caller's images on their way through a shared engine."""

    def __init__(self, engine: SharedEngine, prepare: Callable[[Sequence[T]], list[tuple[Row, Request | None]]]):
        """`prepare` makes a row of each of some images, and a request of each that can be captioned."""
        self._engine, self._prepare = engine, prepare
        self._preparing: deque[Future[list[tuple[Row, Request | None]]]] = deque()
        self._waiting: deque[Request] = deque()
        self._rows: deque[tuple[Row, int | None]] = deque()
        """Rows that are not given out yet, in order, with the id of the request that they wait for."""
        self._done: dict[int, Completion] = {}

    def run(self, images: Iterator[T]) -> Iterator[list[Row]]:
        """Yields finished rows, some at a time, in order; `images` are read no further ahead than the engine needs."""
        window = 4 * self._engine.engine.free_slots + READ_BATCH
        with ThreadPoolExecutor(1, "recap-prepare") as pool:
            while True:
                while len(self._preparing) < READ_AHEAD and len(self._rows) < window:
                    if not (batch := list(islice(images, READ_BATCH))):
                        break
                    self._preparing.append(pool.submit(self._prepare, batch))
                self._collect()
                if self._waiting or any(number not in self._done for _, number in self._rows if number is not None):
                    self._engine.step(self._waiting, self._done)
                if finished := self._finished():
                    yield finished
                if not self._rows and not self._preparing:
                    return

    def _collect(self) -> None:
        """Takes the batches that are decoded; waits for one where the engine has nothing of ours to do."""
        while self._preparing and (self._preparing[0].done() or not self._rows):
            for row, request in self._preparing.popleft().result():
                self._rows.append((row, None if request is None else request.id))
                if request is not None:
                    self._waiting.append(request)

    def _finished(self) -> list[Row]:
        """Takes the rows at the head that have their completion, or need none."""
        finished = []
        while self._rows:
            row, number = self._rows[0]
            if number is not None:
                if number not in self._done:
                    break
                row.complete(self._done.pop(number))
            finished.append(row)
            self._rows.popleft()
        return finished
