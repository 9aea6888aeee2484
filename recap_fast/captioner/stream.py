"""Keeps an engine full for whoever captions with it: rows come out in the order in which their images went in.

Several threads may do so at once. Each puts its requests into the same engine, and what a step ends is handed out to
whom it belongs, whoever asked for the step.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

from recap_fast.errors import EngineError
from recap_fast.generate.engine import Engine, next_requests
from recap_fast.records import Completion, Request, Row

FIRST_BATCH, READ_BATCH = 4, 32
"""Images read and decoded at once: few at first, so that the engine has something to do early."""
READ_AHEAD = 2
"""Batches that are read and decoded while the engine works."""
CLOSED = "The captioner is not open: open one with Captioner.open(engine)."
T = TypeVar("T")


class SharedEngine:
    """An engine that several threads use. It steps in a thread of its own: Ctrl-C ends the waiting, never a step."""

    def __init__(self, engine: Engine):
        self.engine, self.num_slots = engine, engine.free_slots
        self._thread = ThreadPoolExecutor(1, "recap-step")
        self._owners: dict[int, dict[int, Completion]] = {}
        self._broken: BaseException | None = None
        self._is_closed = False

    def step(self, waiting: deque[Request], done: dict[int, Completion]) -> None:
        """Hands over the waiting requests that there is room for, and moves all captions on by one token.

        Completions go into the `done` of whoever handed over their request. Raises EngineError once the engine has
        failed, for every caller from then on, and RuntimeError after `close`.
        """
        if self._is_closed:
            raise RuntimeError(CLOSED)
        self._thread.submit(self._step, waiting, done).result()

    def close(self) -> None:
        """Waits for the step that runs, and closes the engine."""
        self._is_closed = True
        self._thread.shutdown()
        self.engine.close()

    def _step(self, waiting: deque[Request], done: dict[int, Completion]) -> None:
        if self._broken is not None:
            raise EngineError(f"The engine has failed before, open it again: {self._broken}") from self._broken
        try:
            if joining := next_requests(waiting, self.engine.free_slots, self.num_slots):
                for request in joining:
                    waiting.popleft()
                    self._owners[request.id] = done
                self.engine.submit(joining)
            if self._owners:
                for completion in self.engine.step():
                    self._owners.pop(completion.id)[completion.id] = completion
        except BaseException as error:
            self._broken = error
            raise


class Stream(Generic[T]):
    """One caller's images on their way through a shared engine."""

    def __init__(self, engine: SharedEngine, prepare: Callable[[Sequence[T]], list[tuple[Row, list[Request]]]]):
        """`prepare` makes a row of each of some images, and the requests of each that can be captioned."""
        self._engine, self._prepare = engine, prepare
        self._preparing: deque[tuple[Future[None], Future[list[tuple[Row, list[Request]]]]]] = deque()
        """Batches that are being read, and then prepared."""
        self._size, self._window = FIRST_BATCH, 4 * engine.num_slots + READ_BATCH
        self._has_ended = False
        self._error: BaseException | None = None
        """What the images' iterator failed with: it is raised behind the rows of those before."""
        self._waiting: deque[Request] = deque()
        self._rows: deque[tuple[Row, list[int]]] = deque()
        """Rows that are not given out yet, in order, with the ids of the requests that they wait for."""
        self._done: dict[int, Completion] = {}

    def run(self, images: Generator[T]) -> Iterator[list[Row]]:
        """Yields finished rows, some at a time, in order. `images` are read in another thread, a little ahead."""
        pool = ThreadPoolExecutor(1, "recap-prepare")
        try:
            while True:
                self._read_ahead(pool, images)
                self._collect()
                if any(number not in self._done for _, numbers in self._rows for number in numbers):
                    self._engine.step(self._waiting, self._done)
                if finished := self._finished():
                    yield finished
                if not self._rows and not self._preparing:
                    if self._error is not None:
                        raise self._error
                    return
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # the iterator may be waiting for long

    def _read_ahead(self, pool: ThreadPoolExecutor, images: Generator[T]) -> None:
        while (
            not self._has_ended
            and len(self._preparing) < READ_AHEAD
            and len(self._rows) < self._window
            and len(self._waiting) < 2 * READ_BATCH
        ):
            batch: list[T] = []
            reading = pool.submit(self._read, images, self._size, batch)
            self._preparing.append((reading, pool.submit(lambda batch: self._prepare(batch) if batch else [], batch)))
            self._size = min(2 * self._size, READ_BATCH)

    def _read(self, images: Generator[T], size: int, batch: list[T]) -> None:
        """Fills a batch, as far as the images go: a generator that has ended or failed gives no more."""
        for image in islice(images, size):
            batch.append(image)  # noqa: PERF402 - those before an error stay
        self._has_ended = len(batch) < size

    def _collect(self) -> None:
        """Takes the batches that are decoded; waits for one where the engine has nothing of ours to do."""
        while self._preparing and (self._preparing[0][1].done() or not self._rows):
            reading, preparing = self._preparing.popleft()
            for row, requests in preparing.result():
                self._rows.append((row, [request.id for request in requests]))
                self._waiting.extend(requests)
            if (error := reading.exception()) is not None:
                self._error, self._has_ended = error, True

    def _finished(self) -> list[Row]:
        """Takes the rows at the head that have all their completions, or need none."""
        finished = []
        while self._rows and all(number in self._done for number in self._rows[0][1]):
            row, numbers = self._rows.popleft()
            row.complete([self._done.pop(number) for number in numbers])
            finished.append(row)
        return finished
