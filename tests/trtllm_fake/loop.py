"""In-flight batching in a thread of its own, as both flows have it: jobs join and leave between two steps."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from trtllm_fake.faults import Faults
from trtllm_fake.llama import Running

ON_DEMAND = "the fake was told to fail this request"


@dataclass
class Job:
    """A request in the loop."""

    id: int
    request: Any
    running: Running | None = None
    error: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """What a flow keeps of it."""


class Runner(Protocol):
    """What a flow does with jobs."""

    def start(self, job: Job) -> Running:
        """Raises ValueError for a request that is refused by itself."""

    def advance(self, new: Sequence[Job], old: Sequence[Job]) -> None:
        """One token for each. RuntimeError fails all of them, as an exception in the executor's step does."""


class Loop:
    """Runs jobs, at most `max_active` at once, and hands each on to `deliver` when it has ended."""

    def __init__(self, runner: Runner, max_active: int, faults: Faults, deliver: Callable[[Job], None]):
        self._runner, self._max_active, self._faults, self._deliver = runner, max_active, faults, deliver
        self._changed = threading.Condition()
        self._waiting: list[Job] = []
        self._active: list[Job] = []
        self._held: list[Job] = []
        self._num_submitted = self._num_delivered = 0
        self._stopping = False
        self.is_dead = False
        self.failure: BaseException | None = None
        """What no request is to blame for: a trap that was walked into."""
        self.most_active = 0
        self._thread = threading.Thread(target=self._run, name="fake executor", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Any]) -> list[int]:
        """The jobs' ids; all of them wait before the first is looked at."""
        with self._changed:
            ids = []
            for request in requests:
                job = Job(self._num_submitted + 1, request)
                if self._num_submitted in self._faults.failing:
                    job.error = ON_DEMAND
                self._num_submitted += 1
                self._waiting.append(job)
                ids.append(job.id)
            self._changed.notify_all()
            return ids

    def cancel(self, job_id: int) -> None:
        """Ends a job at its next token."""
        with self._changed:
            for job in (*self._waiting, *self._active):
                if job.id == job_id:
                    job.extra["cancelled"] = True

    def stop(self) -> None:
        """Ends the thread; what is on its way is dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self.is_dead and (new := self._admit()) is not None:
                self._step(new)
        except BaseException as error:  # noqa: BLE001  # it is raised where the caller asks next
            self.failure = error
            self.is_dead = True

    def _admit(self) -> list[Job] | None:
        """Those that join now; None to end. Waits while there is nothing to do."""
        with self._changed:
            while not (self._waiting or self._active or self._stopping):
                self._changed.wait()
            if self._stopping:
                return None
            room = self._max_active - len(self._active)
            new, self._waiting = self._waiting[:room], self._waiting[room:]
            return new

    def _step(self, new: list[Job]) -> None:
        started: list[Job] = []
        for i, job in enumerate(new):
            if job.error is None:
                try:
                    job.running = self._runner.start(job)
                    started.append(job)
                    continue
                except ValueError as error:
                    job.error = str(error)
            self._end(job, more=bool(new[i + 1 :] or started or self._active))
        old, self._active = self._active, self._active + started
        self.most_active = max(self.most_active, len(self._active))
        try:
            self._runner.advance(started, old)
        except RuntimeError as error:
            for job in self._active:
                job.error = f"Encountered an error in forwardAsync function: {error}"
        ended = [job for job in self._active if self._has_ended(job)]
        self._active = [job for job in self._active if job not in ended]
        for i, job in enumerate(ended):
            self._end(job, more=bool(ended[i + 1 :] or self._active))

    def _has_ended(self, job: Job) -> bool:
        assert job.running is not None
        if job.extra.get("cancelled") and not job.running.finish:
            job.running.finish = "CANCELLED"
        return job.error is not None or job.running.finish is not None

    def _end(self, job: Job, *, more: bool) -> None:
        """Hands a job on, or holds it back until another has overtaken it; `more` will end in any case."""
        if self._faults.out_of_order and not self._held and (more or self._waiting):
            self._held.append(job)
            return
        for each in (job, *self._held):
            if self.is_dead:
                return
            self._deliver(each)
            self._num_delivered += 1
            self.is_dead = self._num_delivered == self._faults.dies_after
        self._held.clear()
