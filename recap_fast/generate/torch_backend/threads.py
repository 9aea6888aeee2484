"""How many threads a step runs on, on a CPU that other processes may use as well.

The threads of a step wait for each other after every operation. One whose processor another process has holds up all of
them, for milliseconds each time: beside a busy process a core, two threads were 20 times slower than one.
"""

import contextlib
import time
from collections.abc import Iterator

import torch

from recap_fast.cpus import usable_cpus
from recap_fast.generate.device import num_cpu_threads

WINDOW_S = 0.5
"""Seconds of steps after which the processors that they had are counted."""
ENOUGH = 0.8
"""The share of its processors that a team must have had to stay as it is."""
PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Seconds of steps on fewer threads before all are tried again."""
TRIAL_S = 0.1
"""Seconds of steps on all threads that are a trial; one step may be longer."""
TRIAL_SHARE = 0.05
"""Of the time: after a trial in vain the next pause is so long that trials take no more."""


class TeamSize:
    """Fewer threads after steps that had fewer processors than threads; all of them again once the processors are free.

    No more than the steps had: beside as many busy processes as threads half of them, each on a processor of its own.
    """

    def __init__(self, most: int, cpus: float):
        """At most `most` threads. Alone they have `cpus` processors, or one each."""
        self._most, self._alone = most, min(most, cpus)
        self.threads = most
        self._pause_s = PAUSE_S
        self._is_trial = False
        self._start_window()

    def note(self, seconds: float, cpu_s: float) -> None:
        """A step took so many seconds, and this process so many seconds of processors meanwhile."""
        self._seconds += seconds
        self._cpu_s += cpu_s
        if self.threads < self._most:
            if self._seconds >= self._pause_s:
                self.threads, self._is_trial = self._most, True
                self._start_window()
        elif self._seconds >= (TRIAL_S if self._is_trial else WINDOW_S):
            self._judge()
            self._start_window()

    def _judge(self) -> None:
        had = self._cpu_s / self._seconds
        if had < ENOUGH * self._alone:
            self.threads = max(1, int(had))
            longer = self._seconds / TRIAL_SHARE if self._is_trial else 0.0
            self._pause_s = min(max(PAUSE_S, longer), LONGEST_PAUSE_S)
        self._is_trial = False

    def _start_window(self) -> None:
        self._seconds = self._cpu_s = 0.0


class StepThreads:
    """The threads of an engine's steps; outside of a step torch has as many as before."""

    def __init__(self) -> None:
        self._size = TeamSize(num_cpu_threads(), usable_cpus())

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Runs a step on as many threads as are worth it now, and learns from it."""
        before = torch.get_num_threads()
        start, cpu_start = time.perf_counter(), time.process_time()
        torch.set_num_threads(self._size.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
        self._size.note(time.perf_counter() - start, time.process_time() - cpu_start)
