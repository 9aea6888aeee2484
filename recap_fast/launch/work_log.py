"""What a process says of its work while it lasts, made from snapshots: for `recap-fast status`."""

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from recap_fast.pipeline.counters import Snapshot
from recap_fast.write.workers import MAX_SHARDS, State, Work

WINDOW_S = 300.0
"""The rate is that of the last five minutes: longer than any shard's start, and soon true again after a change."""


@dataclass(frozen=True, slots=True)
class Device:
    """What an engine runs on."""

    name: str
    is_gpu: bool


class WorkLog:
    """Keeps the rate of the last minutes of one process."""

    def __init__(self, read: Callable[[], Snapshot], part: tuple[int, int]):
        """`part` is counted from 0."""
        self._read, self._part = read, f"{part[0] + 1}/{part[1]}"
        self._started_s = time.time() - read().held_s
        self._lock = threading.Lock()
        self._past: deque[tuple[float, int]] = deque()
        """Seconds since the first image, and captions by then, from `WINDOW_S` ago until now."""
        self.find_state: Callable[[], State] = lambda: "starting"
        self.device: Device | None = None
        """None before the engine is open."""

    def work(self) -> Work:
        """What the process does now."""
        s = self._read()
        opened = s.gauges.open_shards
        return Work(
            host=socket.gethostname(),
            pid=os.getpid(),
            part=self._part,
            device=self.device.name if self.device else "",
            is_gpu=self.device is not None and self.device.is_gpu,
            started_s=self._started_s,
            state=self.find_state(),
            held_s=s.held_s,
            shards=opened[:MAX_SHARDS],
            num_open=len(opened),
            shards_done=s.shards_done,
            shards_total=s.shards_total,
            rows=s.rows,
            captioned=s.captioned,
            failed=s.failed,
            rows_left=None if s.total is None else max(0, s.total - s.kept - s.rows),
            images_per_s=self._rate(s),
        )

    def _rate(self, s: Snapshot) -> float | None:
        """Captioned images a second since the oldest snapshot that is kept."""
        with self._lock:
            past = self._past
            past.append((s.seconds, s.captioned))
            while len(past) > 2 and past[1][0] <= s.seconds - WINDOW_S:
                past.popleft()
            then, before = past[0]
        seconds = s.seconds - then
        return (s.captioned - before) / seconds if seconds > 0 else None
