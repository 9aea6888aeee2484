"""The engine's loop, on the caller's thread: requests in, rows with their completions out. The batch never drains."""

import time
from collections.abc import Callable

from recap_fast.generate.engine import Engine
from recap_fast.pipeline.channel import Channel
from recap_fast.pipeline.counters import RunCounters
from recap_fast.records import Request, Row
from recap_fast.write.assembly import EndOfShard

POLL_S = 0.05
"""How soon an idle engine notices a drain."""


class Generating:
    """Keeps the engine full until there is nothing left, or the run is to end."""

    def __init__(
        self,
        engine: Engine,
        counters: RunCounters,
        spend: Callable[[str, str, float], None],
        stop: Callable[[], None],
        ready: Channel[tuple[Row, Request]],
        rows: "Channel[Row | EndOfShard]",
    ):
        """`spend` as for `Decoding`; `stop` ends the stages before this one."""
        self._engine, self._counters, self._spend, self._stop = engine, counters, spend, stop
        self._ready, self._rows = ready, rows
        self._deadline = float("inf")
        self.drained = False
        self.in_flight: dict[int, tuple[Row, float]] = {}
        """Rows in the engine by their request's id, with `_shared_s` of when they joined."""
        self._shared_s = 0.0
        """Sum over the steps of their seconds, shared equally among the requests in each."""

    def drain(self, seconds: float) -> None:
        """Takes no new work; what is in flight may finish within so many seconds.

        Signal handlers may call it: it takes no lock, which the interrupted thread could hold.
        """
        self._deadline = min(self._deadline, time.monotonic() + seconds)
        self.drained = True

    def abandon(self) -> None:
        """Ends the loop after the step that runs now: another stage is broken."""
        self._deadline = float("-inf")

    def run(self) -> None:
        """Generates until the last request is answered. Raises EngineError."""
        while time.monotonic() < self._deadline:
            if self.drained:
                self._stop()
            self._fill()
            if self.in_flight:
                self._step()
            elif self._ready.is_finished:
                return

    def _fill(self) -> None:
        """Gives the engine what it has room for and what is there; waits only if it has nothing to do."""
        room = self._engine.free_slots
        taken = self._ready.take(room, 0.0 if self.in_flight else POLL_S) if room else []
        for row, request in taken:
            self._engine.submit([request])
            self.in_flight[request.id] = (row, self._shared_s)

    def _step(self) -> None:
        start = time.monotonic()
        with self._counters.busy("generate"):
            completions = self._engine.step()
        self._shared_s += (time.monotonic() - start) / len(self.in_flight)
        for completion in completions:
            row, joined_s = self.in_flight.pop(completion.id)
            self._spend(row.sample.shard, "generate", self._shared_s - joined_s)
            row.complete(completion)
            self._rows.put(row)
