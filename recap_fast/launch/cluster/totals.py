"""What all workers of a run have done together, from what each says of itself: one snapshot, as of one process."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from recap_fast.launch.cluster.protocol import Message, Tally
from recap_fast.pipeline.counters import STAGES, Gauges, RunCounters, Snapshot, Stage, Workers

RECENT_S = 60.0
"""The present rate is that of so many seconds."""


class Totals:
    """The counters of a run on a cluster. Any thread may ask for a snapshot."""

    def __init__(
        self,
        num_shards: int,
        *,
        num_rows: int | None,
        kept: int,
        limit: int | None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """As `RunCounters`."""
        self._num_shards, self._num_rows, self._kept, self._limit = num_shards, num_rows, kept, limit
        self._clock = clock
        self._started: float | None = None
        self._tallies: dict[str, Tally] = {}
        self._living: dict[str, bool] = {}
        """Workers that live, and whether their engine is open."""
        self._waiting = 0
        self._recent: deque[tuple[float, int, int]] = deque()
        """Time, rows and captions, now and then."""
        self.shards_done = 0

    def hear(self, message: Message) -> None:
        """Takes what a worker says."""
        self._living[message.worker] = message.boot_s is not None
        if message.tally is not None:
            self._tallies[message.worker] = message.tally
            seconds = message.tally.snapshot.seconds
            if seconds > 0 and self._started is None:
                self._started = self._clock() - seconds

    def forget(self, worker: str) -> None:
        """A worker is no more; what it has done still counts, and what it holds does not."""
        self._living.pop(worker, None)
        if (tally := self._tallies.get(worker)) is not None:
            gauges = Gauges(idle_s=tally.snapshot.gauges.idle_s)
            self._tallies[worker] = replace(tally, snapshot=replace(tally.snapshot, gauges=gauges))

    def set_waiting(self, num: int) -> None:
        """So many workers wait for a place."""
        self._waiting = num

    def note(self) -> None:
        """Remembers how much is done now, for the present rate."""
        now = self._clock()
        snapshots = [each.snapshot for each in list(self._tallies.values())]
        self._recent.append((now, sum(s.rows for s in snapshots), sum(s.captioned for s in snapshots)))
        while len(self._recent) > 2 and self._recent[1][0] < now - RECENT_S:
            self._recent.popleft()

    def snapshot(self) -> Snapshot:
        """The state now."""
        tallies = list(self._tallies.values())
        seconds = 0.0 if self._started is None else self._clock() - self._started
        whole: Snapshot = add([RunCounters(0).snapshot(), *(each.snapshot for each in tallies)])
        kept, expected = self._kept + sum(each.kept for each in tallies), self._expected(tallies)
        left = None if expected is None else max(0, expected - whole.rows)
        rate, captions_per_s = self._rates(whole, seconds)
        return replace(
            whole,
            seconds=seconds,
            kept=kept,
            total=None if expected is None else kept + expected,
            is_estimate=self._is_estimate(tallies, expected),
            shards_done=self.shards_done,
            shards_total=self._num_shards,
            busy=self._busy(),
            eta_s=left / rate if left is not None and rate > 0 else None,
            workers=self._workers(captions_per_s),
        )

    def _is_estimate(self, tallies: Sequence[Tally], expected: int | None) -> bool:
        is_known = self._num_rows is not None or sum(each.new_shards for each in tallies) >= self._num_shards
        return not is_known and expected != self._limit

    def _busy(self) -> dict[Stage, float]:
        """How much of the time each stage works, the mean of the workers that live."""
        living = list(self._living)
        shares = [tally.snapshot.busy for name, tally in list(self._tallies.items()) if name in living]
        return {stage: sum(each[stage] for each in shares) / max(1, len(shares)) for stage in STAGES}

    def _workers(self, images_per_s: float) -> Workers:
        ready = list(self._living.values())
        num = sum(ready)
        return Workers(num=num, starting=len(ready) - num, waiting=self._waiting, images_per_s=images_per_s)

    def _rates(self, whole: Snapshot, seconds: float) -> tuple[float, float]:
        """Rows and captions a second, over the last minute."""
        recent = list(self._recent)
        if len(recent) > 1 and recent[-1][0] > recent[0][0] and recent[-1][1] > recent[0][1]:
            (start, rows, captions), (end, more_rows, more_captions) = recent[0], recent[-1]
            return (more_rows - rows) / (end - start), (more_captions - captions) / (end - start)
        if seconds <= 0:
            return 0.0, 0.0
        return whole.rows / seconds, whole.captioned / seconds

    def _expected(self, tallies: list[Tally]) -> int | None:
        """Rows of this run; as if the shards that were not opened were like those that were."""
        resumed = sum(each.kept for each in tallies)
        rows = self._num_rows
        if rows is None:
            opened = sum(each.new_shards for each in tallies)
            if not opened:
                return None
            rows = round(sum(each.new_rows for each in tallies) / opened * self._num_shards)
        left = rows - resumed
        return left if self._limit is None else min(left, self._limit)


def add(values: Sequence[Any]) -> Any:
    """The sum of records of one kind, field by field: numbers, and those by name, are added up, tuples joined.

    Of what cannot be added the first counts.
    """
    first = values[0]
    if is_dataclass(first):
        sums = {f.name: add([getattr(value, f.name) for value in values]) for f in fields(first)}
        return replace(first, **sums)  # type: ignore[type-var]
    if isinstance(first, Mapping):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: add([value[name] for value in values if name in value]) for name in names}
    if isinstance(first, tuple):
        return tuple(each for value in values for each in value)
    if isinstance(first, int | float) and not isinstance(first, bool):
        return sum(values)
    return first
