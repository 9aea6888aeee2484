"""The engine's loop, on the caller's thread: requests in, rows with their completions out. The batch never drains."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from recap_fast.generate.engine import Engine
from recap_fast.pipeline.channel import Channels
from recap_fast.pipeline.counters import RunCounters
from recap_fast.records import Row
from recap_fast.write.assembly import Assembly

POLL_S = 0.05
"""Seconds until an idle engine notices a drain."""


@dataclass
class Generating:
    """Keeps the engine full until there is nothing left, or the run is to end."""

    engine: Engine
    channels: Channels
    counters: RunCounters
    assembly: Assembly
    settle: Callable[[Row], Iterable[Row]]
    """The rows that are finished with this one."""
    drained: bool = False
    in_flight: dict[int, tuple[Row, float]] = field(default_factory=dict)
    """Rows in the engine by their request's id, with `shared_s` of when they joined."""
    shared_s: float = 0.0
    """Sum over the steps of their seconds, shared equally among the requests in each."""
    deadline: float = float("inf")

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
        taken = self.channels.ready.take(room, 0.0 if self.in_flight else POLL_S) if room else []
        for row, request in taken:
            self.engine.submit([request])
            self.in_flight[request.id] = (row, self.shared_s)

    def _step(self) -> None:
        with self.counters.busy("generate") as lap:
            completions = self.engine.step(more=not self.channels.ready.is_finished)
        self.shared_s += lap.seconds / len(self.in_flight)
        for completion in completions:
            row, joined_s = self.in_flight.pop(completion.id)
            self.assembly.spend(row.sample.shard, "generate", self.shared_s - joined_s)
            row.complete(completion)
            for each in self.settle(row):
                self.channels.rows.put(each)
