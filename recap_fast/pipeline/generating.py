"""The engine's loop, on the caller's thread: requests in, rows with their completions out. The batch never drains."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from recap_fast.generate.engine import Engine, next_requests
from recap_fast.pipeline.channel import Channels
from recap_fast.pipeline.counters import RunCounters
from recap_fast.records import Completion, Request, Row
from recap_fast.write.assembly import Assembly

POLL_S = 0.05
"""Seconds until an idle engine notices a drain."""


@dataclass(slots=True)
class Begun:
    """A row whose captions are being made."""

    row: Row
    ids: list[int]
    """Of its requests, in order."""
    done: dict[int, Completion] = field(default_factory=dict)


@dataclass
class Generating:
    """Keeps the engine full until there is nothing left, or the run is to end."""

    engine: Engine
    channels: Channels
    counters: RunCounters
    assembly: Assembly
    settle: Callable[[Row], Iterable[Row]]
    """The rows that are finished with this one."""
    captions_per_image: int = 1
    drained: bool = False
    in_flight: dict[int, tuple[Begun, float]] = field(default_factory=dict)
    """Rows by the ids of their requests in the engine, with `shared_s` of when these joined."""
    waiting: deque[tuple[Begun, Request]] = field(default_factory=deque)
    """Requests that the engine had no room for."""
    shared_s: float = 0.0
    """Sum over the steps of their seconds, shared equally among the requests in each."""
    deadline: float = float("inf")
    num_slots: int = field(init=False)
    """Of the engine, which is idle yet."""

    def __post_init__(self) -> None:
        self.num_slots = self.engine.free_slots

    def drain(self, seconds: float) -> None:
        """Takes no new work; what is in flight may finish within so many seconds.

        Signal handlers may call it: it takes no lock, which the interrupted thread could hold.
        """
        self.deadline = min(self.deadline, time.monotonic() + seconds)
        self.drained = True

    def abandon(self) -> None:
        """Ends the loop after the current step, because another stage failed."""
        self.deadline = float("-inf")

    def run(self) -> None:
        """Generates until the last request is answered. Raises EngineError."""
        while time.monotonic() < self.deadline:
            if self.drained:
                self.channels.stop()
            self._fill()
            if self.in_flight:
                self._step()
            elif self.channels.ready.is_finished:
                return

    def _fill(self) -> None:
        """Gives the engine what it has room for and what is there; waits only if it has nothing to do."""
        room = self.engine.free_slots
        if (lacking := room - len(self.waiting)) > 0:
            num_rows = math.ceil(lacking / self.captions_per_image)
            taken = self.channels.ready.take(num_rows, 0.0 if self.in_flight or self.waiting else POLL_S)
            for row, requests in taken:
                begun = Begun(row, [request.id for request in requests])
                self.waiting.extend((begun, request) for request in requests)
        if joining := next_requests((request for _, request in self.waiting), room, self.num_slots):
            for request in joining:
                begun, _ = self.waiting.popleft()
                self.in_flight[request.id] = (begun, self.shared_s)
            self.engine.submit(joining)

    def _step(self) -> None:
        with self.counters.busy("generate") as lap:
            completions = self.engine.step(more=bool(self.waiting) or not self.channels.ready.is_finished)
        self.shared_s += lap.seconds / len(self.in_flight)
        for completion in completions:
            begun, joined_s = self.in_flight.pop(completion.id)
            row, begun.done[completion.id] = begun.row, completion
            self.assembly.spend(row.sample.shard, "generate", self.shared_s - joined_s)
            if len(begun.done) == len(begun.ids):
                row.complete([begun.done[id_] for id_ in begun.ids])
                for each in self.settle(row):
                    self.channels.rows.put(each)
