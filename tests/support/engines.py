"""Engines for tests: a fake one, and what keeps any of them full. Real ones are made by inputs/oracle.py."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recap_fast.generate.engine import Statistics
from recap_fast.generate.prepared import generate_all
from recap_fast.records import Completion, Request


def caption_all(engine: Any, requests: Sequence[Request]) -> dict[int, Completion]:
    """Runs requests through an engine; their completions by id."""
    return {completion.id: completion for completion in generate_all(engine, requests)}


class FakeEngine:
    """An `Engine` without weights: ids follow from the pixels, and a caption ends after as many steps as `length` says.

    `length` is asked with the request's running number: `float("inf")` never ends by itself, until `release` is called.
    """

    def __init__(self, num_slots: int = 4, length: Callable[[int], float] = lambda number: 1 + number * 7 % 5):
        self._num_slots, self._length = num_slots, length
        self._running: dict[int, list[Any]] = {}
        self._released = False
        self.submitted = 0
        self.completed = 0
        self.occupied: list[int] = []
        self.statistics = Statistics()

    @property
    def free_slots(self) -> int:
        return self._num_slots - len(self._running)

    def release(self) -> None:
        self._released = True

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            assert self.free_slots
            self._running[request.id] = [request, self._length(request.id)]
            self.submitted += 1

    def step(self, *, more: bool = False) -> list[Completion]:
        self.occupied.append(len(self._running))
        done = []
        for id_, entry in list(self._running.items()):
            entry[1] -= 1
            if entry[1] <= 0 or (self._released and entry[1] == float("inf")):
                del self._running[id_]
                self.completed += 1
                ids = entry[0].pixels.ravel()[:3].astype(np.int32) % 26 + 97
                done.append(Completion(id_, ids, "stop", 4))
        return done

    def describe(self) -> str:
        return "fake"

    def close(self) -> None:
        self._running.clear()
