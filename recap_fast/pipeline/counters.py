"""Counts what a run does and times its stages; says which stage limits it and when it will be done.

Each counter is written by one thread. A stage is busy while it works and not while it waits for another: the busiest
one is what limits the run.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from recap_fast.records import Completion

Stage = Literal["read", "decode", "generate", "write"]
STAGES: tuple[Stage, ...] = ("read", "decode", "generate", "write")
T = TypeVar("T")


@dataclass(slots=True)
class Lap:
    """A piece of work of a stage."""

    seconds: float = 0.0
    """How long it took; 0 until it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What the stages hold at one moment, and how long the device has waited for them."""

    queues: dict[str, int] = field(default_factory=dict)
    """Items in each channel: 'samples' that were read, 'requests' that were decoded, 'rows' that are finished; and the
    'window' of samples that were read and are not yet in order, which has the others in it."""
    window_bytes: int = 0
    """Memory that the samples in the window take."""
    slots: int = 0
    """Captions that the engine generates at once, at most."""
    slots_in_use: int = 0
    idle_s: dict[str, float] = field(default_factory=dict)
    """Seconds in which the device had nothing to do, by reason; see `Statistics.idle_s`."""
    open_shards: tuple[str, ...] = ()
    """Names of the shards that are being captioned, in the order in which they were opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The workers of a run on a cluster at one moment."""

    num: int
    """Those whose engine is open."""
    starting: int
    """Those that have a place in the cluster and open their engine."""
    waiting: int
    """Those that wait for a place."""
    images_per_s: float
    """Captions a second of them all, over the last minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a run at one moment."""

    seconds: float
    """Since the first image was read."""
    rows: int
    captioned: int
    failed: dict[str, int]
    num_tokens: int
    """Generated tokens: a caption that several images share counts once."""
    cut: int
    """Captions that the token limit ended."""
    kept: int
    """Rows that earlier runs have done, of the shards that were opened and of those that were finished before."""
    total: int | None
    """Rows of all shards, those that are kept with them; None where a shard has to be opened first."""
    is_estimate: bool
    """Whether `total` supposes that shards which were not opened are like those that were."""
    shards_done: int
    shards_total: int
    busy: dict[Stage, float]
    """Share of the time that each stage worked."""
    eta_s: float | None
    stage_s: dict[Stage, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Seconds that each stage worked."""
    held_s: float = 0.0
    """Seconds that the devices were held for the run, summed over them, from the start of each one's process."""
    shared: int = 0
    """Rows whose captions were not generated: an identical image had them."""
    further: int = 0
    """Captions that were generated besides the first of an image."""
    gauges: Gauges = Gauges()
    workers: Workers | None = None
    """None where the run is one process."""

    @property
    def images_per_s(self) -> float:
        """Captions a second, shared ones with the others, from the first image on."""
        return self.captioned / self.seconds if self.seconds > 0 else 0.0

    @property
    def images_per_hour_held(self) -> float:
        """Captions in an hour of one device, with all that is not captioning, such as loading the weights."""
        return self.captioned / self.held_s * 3600 if self.held_s > 0 else 0.0

    @property
    def share(self) -> float | None:
        """Of the rows, those that are done."""
        return min(1.0, (self.kept + self.rows) / self.total) if self.total else None

    @property
    def tokens_per_caption(self) -> float:
        """Mean number of tokens of a generated caption."""
        return self.num_tokens / self.generated if self.generated else 0.0

    @property
    def generated(self) -> int:
        """Captions that were generated, all of each image."""
        return self.captioned - self.shared + self.further

    @property
    def limiting_stage(self) -> Stage:
        """The stage that worked most of the time."""
        return max(STAGES, key=self.busy.__getitem__)


class Progress(Protocol):
    """What a run has done so far: the counters of one process, or those of all workers of a cluster."""

    def snapshot(self) -> Snapshot:
        """The state now."""


class RunCounters:
    """The counters of one run."""

    def __init__(
        self,
        num_shards: int,
        *,
        num_rows: int | None = None,
        kept: int = 0,
        limit: int | None = None,
        held_since: float | None = None,
    ):
        """`num_rows` of the shards, where that is known before they are opened; `kept` are the rows of others, which
        were finished before; `limit` is the most images of the run; the device is held since `held_since` by
        time.monotonic(), by default since now."""
        self._held_since = time.monotonic() if held_since is None else held_since
        self._num_shards, self._num_rows, self._kept, self._limit = num_shards, num_rows, kept, limit
        self._started: float | None = None
        self._captioned = self._shared = self._further = self._num_tokens = self._cut = self._shards_done = 0
        self._failed: Counter[str] = Counter()
        self._busy = dict.fromkeys(STAGES, 0.0)
        self._opened_shards = self._opened_rows = self._resumed_rows = 0
        self.read_gauges: Callable[[], Gauges] = Gauges
        """Asked for the gauges of a snapshot, in the thread that takes it; the pipeline has its own."""

    @contextmanager
    def busy(self, stage: Stage) -> Iterator[Lap]:
        """Times a piece of work of a stage."""
        lap, start = Lap(), time.monotonic()
        try:
            yield lap
        finally:
            lap.seconds = time.monotonic() - start
            self._busy[stage] += lap.seconds

    def timed(self, stage: Stage, items: Iterable[T], spend: Callable[[float], None]) -> Iterator[T]:
        """Passes items on; `spend` is told how many seconds each took to come."""
        iterator: Iterator[Any] = iter(items)
        end: Any = object()
        while True:
            try:
                with self.busy(stage) as lap:
                    item = next(iterator, end)
            finally:
                spend(lap.seconds)
            if item is end:
                return
            yield item

    def start_shard(self, num_samples: int, num_done: int) -> None:
        """A shard was opened: its samples, and how many of them earlier runs have done."""
        if self._started is None:
            self._started = time.monotonic()
        self._opened_shards += 1
        self._opened_rows += num_samples
        self._resumed_rows += num_done

    def skip_shard(self) -> None:
        """A shard cannot be opened: none of its samples will come."""
        self._opened_shards += 1

    def count(self, status: str, completions: Sequence[Completion], *, is_shared: bool = False) -> None:
        """A sample is finished, with captions of its own, with those of an identical image or without one."""
        if not completions:
            self._failed[status] += 1
            return
        self._captioned += 1
        self._shared += is_shared
        if not is_shared:
            self._further += len(completions) - 1
            self._num_tokens += sum(each.num_tokens for each in completions)
        self._cut += sum(each.finish_reason == "length" for each in completions)

    def finish_shard(self) -> None:
        """A shard has its done-record."""
        self._shards_done += 1

    def snapshot(self) -> Snapshot:
        """The state now."""
        seconds = 0.0 if self._started is None else time.monotonic() - self._started
        failed, stage_s = self._failed.copy(), self._busy.copy()  # other threads go on counting
        rows, left = self._captioned + failed.total(), self._expected()
        return Snapshot(
            seconds=seconds,
            rows=rows,
            captioned=self._captioned,
            failed=dict(failed),
            num_tokens=self._num_tokens,
            cut=self._cut,
            kept=self._kept + self._resumed_rows,
            total=None if left is None else self._kept + self._resumed_rows + left,
            is_estimate=self._num_rows is None and self._opened_shards < self._num_shards and left != self._limit,
            shards_done=self._shards_done,
            shards_total=self._num_shards,
            busy={stage: spent / seconds if seconds else 0.0 for stage, spent in stage_s.items()},
            eta_s=max(0.0, left - rows) * seconds / rows if rows and left is not None else None,
            stage_s=stage_s,
            held_s=time.monotonic() - self._held_since,
            shared=self._shared,
            further=self._further,
            gauges=self.read_gauges(),
        )

    def _expected(self) -> int | None:
        """Rows of this run; if it is not known, as if the shards not yet opened were like those that are."""
        rows = self._num_rows
        if rows is None:
            if not self._opened_shards:
                return None
            rows = round(self._opened_rows / self._opened_shards * self._num_shards)
        left = rows - self._resumed_rows
        return left if self._limit is None else min(left, self._limit)
