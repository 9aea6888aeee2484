"""Engines for tests: a fake one, and what keeps any of them full. Real ones are made by inputs/oracle.py."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from recap_fast.generate.engine import Statistics
from recap_fast.generate.prepared import generate_all
from recap_fast.records import Completion, Request


def caption_all(engine: Any, requests: Sequence[Request]) -> dict[int, Completion]:
    """Runs requests through an engine; their completions by id."""
    return {completion.id: completion for completion in generate_all(engine, requests)}


class FakeEngine:
    """An `Engine` without weights: the caption's ids follow from the pixels, and its length too."""

    def __init__(self, num_slots: int = 4, longest: int = 9):
        self._num_slots, self._longest = num_slots, longest
        self._running: dict[int, tuple[Request, int]] = {}
        self.steps = 0
        self.statistics = Statistics()

    @property
    def free_slots(self) -> int:
        return self._num_slots - len(self._running)

    def submit(self, requests: Sequence[Request]) -> None:
        if len(requests) > self.free_slots:
            raise ValueError(f"{len(requests)} requests given, {self.free_slots} slots are free")
        for request in requests:
            self._running[request.id] = (request, 1 + int(request.pixels.sum()) % self._longest)

    def step(self) -> list[Completion]:
        self.steps += 1
        done = []
        for request, left in list(self._running.values()):
            if left > 1:
                self._running[request.id] = (request, left - 1)
                continue
            del self._running[request.id]
            length = 1 + int(request.pixels.sum()) % self._longest
            ids = np.full(length, 65 + int(request.pixels.sum()) % 26, np.int32)
            done.append(Completion(request.id, ids, "stop", length + 1))
        return done

    def describe(self) -> str:
        return "fake"

    def close(self) -> None:
        self._running.clear()
