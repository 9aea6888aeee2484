"""Supervises the workers of a run: asks the cluster for them, notices their deaths, and lets them go.

It is the memory of the run: the coordinator may die and is told again what the supervisor has heard.
"""

import itertools
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recap_fast.generate.engine import Statistics
from recap_fast.launch.cluster.coordinator import MAX_DEATHS
from recap_fast.launch.cluster.fleet import BootTimes, Fleet
from recap_fast.launch.cluster.judge import Judge
from recap_fast.launch.cluster.protocol import Lost, Memory, Message, State, pack
from recap_fast.launch.cluster.rays import Death, RayCluster
from recap_fast.launch.cluster.task import Outcome, Task
from recap_fast.launch.cluster.totals import Totals, add
from recap_fast.launch.reporter import Reporter
from recap_fast.launch.work_log import Device
from recap_fast.records import Shard, ShardReport
from recap_fast.write.names import some

logger = logging.getLogger(__name__)

POLL_S = 0.5
"""Between two looks at the workers."""
NODES_S = 2.0
"""Between two looks at the nodes."""
ADDED_AT_ONCE = 1000
"""Shards in one call: a thousand units of loose images are 20 MB."""
NO_ROOM_S = 15.0
"""After so long without any worker the user is told that the cluster has no room."""
GRACE_S = 6.0
"""Workers that drain may take so much longer than they should; then they are ended."""


@dataclass(slots=True)
class _Hired:
    """A worker that was asked for."""

    actor: Any
    ref: Any
    message: Message | None = None
    """The last one; None while it waits for a place."""
    is_draining: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether its engine is open."""
        return self.message is not None and self.message.boot_s is not None


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """The workers of one run and the coordinator that they ask for shards."""

    cluster: RayCluster
    coordinator: Any
    shards: Sequence[Shard]
    """What is to be done."""
    task: Task
    needs: Mapping[str, float]
    """What each worker takes of a node: num_cpus, num_gpus."""
    totals: Totals
    reporter: Reporter
    on_device: Callable[[Device], None]
    """Told once what the workers run on."""
    reports: dict[str, ShardReport] = field(default_factory=dict)
    """The last one on each shard."""
    statistics: Statistics = field(default_factory=Statistics)
    """Of the workers that have ended in good order."""
    drained: bool = False
    _workers: dict[str, _Hired] = field(default_factory=dict)
    _gone: list[str] = field(default_factory=list)
    _given: set[str] = field(default_factory=set)
    _judge: Judge = field(default_factory=Judge)
    _boots: BootTimes = field(default_factory=BootTimes)
    _shared: Any = None
    """The task, as workers are given it."""
    _drain_at: float = float("inf")
    _looked_at: float = 0.0
    _lonely_since: float = field(default_factory=time.monotonic)
    _names: Iterator[str] = field(default_factory=lambda: _names())

    def drain(self, seconds: float) -> None:
        """All workers take nothing new and end within so many seconds. Signal handlers may call it."""
        self._drain_at = time.monotonic() + seconds
        self.drained = True

    def run(self) -> None:
        """Supervises until everything is done, or the run is drained.

        Raises EngineError where workers break again and again, and what a worker says that every other would say, too.
        """
        self._shared = self.cluster.share(self.task)
        is_told = False
        while True:
            if self.drained and not is_told:
                self._tell_drain()
                is_told = True
            for ref in self.cluster.wait([hired.ref for hired in self._workers.values()], POLL_S):
                self._end(ref)
            state = self._listen()
            if self.drained:
                self._hurry()
            elif not state.is_lost and not self._has_enough():
                self._look_at_nodes()
                self._hire(state)
            if not self._workers and self._is_over(state):
                break
        self._listen()

    def _is_over(self, state: State) -> bool:
        return self.drained or not (state.is_lost or state.pending + state.held) or self._has_enough()

    def _has_enough(self) -> bool:
        """Whether as many samples are done as --limit says."""
        limit = self.task.config.limit
        return limit is not None and self.totals.snapshot().rows >= limit

    def _listen(self) -> State:
        """Takes in what workers have said."""
        state: State = self.cluster.ask(self.coordinator.state)
        for name, heard in state.heard.items():
            for saying in heard.said:
                logging.getLogger(saying.logger).log(saying.level, "%s", saying.text)
            for report in heard.reports:
                self._note(report)
            if (hired := self._workers.get(name)) is not None:
                self._hear(name, hired, heard.message)
        self.totals.note()
        if state.is_lost:
            self._teach()
        return state

    def _hear(self, name: str, hired: _Hired, message: Message) -> None:
        self._given.update(message.holds)
        if message.boot_s is not None and not hired.is_ready:
            if not len(self._boots):
                self.reporter.event("engine", f"engine   {message.engine}; ready in {message.boot_s:.1f} s")
                self.on_device(Device(message.device, message.is_gpu))
            self._boots.note(name, message.boot_s)
        hired.message = message
        self.totals.hear(message)

    def _note(self, report: ShardReport) -> None:
        before = self.reports.get(report.shard)
        self.reports[report.shard] = report
        if report.status != "interrupted":
            self._judge.finished(report.shard)
            self.totals.shards_done += before is None or before.status == "interrupted"

    def _teach(self) -> None:
        """Tells a coordinator that was just started what is known."""
        ended = {name for name, report in self.reports.items() if report.status != "interrupted"}
        left = ((shard.name, pack(shard)) for shard in self.shards if shard.name not in ended)
        while some_left := dict(itertools.islice(left, ADDED_AT_ONCE)):
            self.cluster.ask(self.coordinator.add, some_left)
        living = {name: hired.message for name, hired in self._workers.items() if hired.message is not None}
        memory = Memory(
            workers=living,
            ended=tuple(ended),
            given=tuple(self._given.difference(ended)),
            deaths=self._judge.deaths,
            gone=tuple(self._gone),
        )
        self.cluster.ask(self.coordinator.learn, memory)
        if self.drained:
            self._tell_drain()
        for name, hired in self._workers.items():
            if hired.is_draining:
                self.cluster.ask(self.coordinator.drain, self.task.config.drain_seconds, [name])

    def _tell_drain(self) -> None:
        self.cluster.ask(self.coordinator.drain, max(0.0, self._drain_at - time.monotonic()))

    def _hurry(self) -> None:
        """Withdraws what waits for a place; ends what takes too long to end by itself."""
        is_late = time.monotonic() > self._drain_at + GRACE_S
        for name, hired in list(self._workers.items()):
            if hired.message is None or is_late:
                self._dismiss(name)

    def _hire(self, state: State) -> None:
        """Asks the cluster for more workers, or withdraws what it has asked for."""
        config = self.task.config
        waiting = [name for name, hired in self._workers.items() if hired.message is None]
        num_ready = sum(hired.is_ready for hired in self._workers.values())
        fleet = Fleet(
            placed=len(self._workers) - len(waiting),
            starting=len(self._workers) - len(waiting) - num_ready,
            fits=self.cluster.room_for(self.needs),
            pending=state.pending,
            boot_s=self._boots.usual,
            rest_s=self.totals.snapshot().eta_s,
        )
        most = config.max_workers if config.limit is None else 1  # one process alone knows when so many are done
        for _ in range(len(waiting), fleet.wanted(config.min_workers, most)):
            name = next(self._names)
            actor, ref = self.cluster.start_worker(self._shared, self.coordinator, name, self.needs)
            self._workers[name] = _Hired(actor, ref)
        for name in waiting[fleet.useful :]:
            self._dismiss(name)
        self.totals.set_waiting(sum(hired.message is None for hired in self._workers.values()))
        self._say_if_lonely(fleet.placed)

    def _say_if_lonely(self, placed: int) -> None:
        now = time.monotonic()
        if placed:
            self._lonely_since = now
        elif now - self._lonely_since > NO_ROOM_S:
            self._lonely_since = float("inf")
            needs = " and ".join(f"{count:g} {name[4:-1].upper()}" for name, count in self.needs.items())
            text = f"waiting  the cluster has no room yet for a worker, which takes {needs}"
            self.reporter.event("waiting", text, **self.needs)

    def _look_at_nodes(self) -> None:
        """Drains the workers of nodes that will go, and takes back deaths on those that are gone."""
        if time.monotonic() - self._looked_at < NODES_S:
            return
        self._looked_at = time.monotonic()
        draining = self.cluster.draining_nodes()
        for name, hired in self._workers.items():
            if hired.message is not None and hired.message.node in draining and not hired.is_draining:
                hired.is_draining = True
                seconds = min(self.task.config.drain_seconds, max(1.0, draining[hired.message.node] - GRACE_S))
                self.cluster.ask(self.coordinator.drain, seconds, [name])
                self.reporter.event(
                    "drain", "A node is to go: its worker finishes the captions in flight.", worker=name
                )
        if self._judge.suspects_nodes:
            names = self._judge.forgive(self.cluster.dead_nodes())
            self.cluster.ask(self.coordinator.forgive, names)

    def _end(self, ref: Any) -> None:
        """A worker has ended, or died."""
        name, hired = next((name, hired) for name, hired in self._workers.items() if hired.ref is ref)
        found = self.cluster.outcome(ref)
        if isinstance(found, Death) and not found.is_final:
            hired.ref = self.cluster.outcome_of(hired.actor)
            return
        self._listen()  # what it has said last
        if isinstance(found, Outcome):
            if found.error is not None:
                raise found.error
            self.statistics = add([self.statistics, found.statistics])
        failure = found.reason if isinstance(found, Death) else found.failure
        node = hired.message.node if hired.message is not None else ""
        is_node = isinstance(found, Death) and node in self.cluster.dead_nodes()
        lost = self._lose(name, hired, is_fault=failure is not None and not is_node)
        self._dismiss(name)
        if is_node:
            logger.warning("a node is gone, and its worker with it; others go on with its shards")
        elif failure is not None and not self.drained:
            self._blame(node, failure, lost, is_broken=isinstance(found, Outcome) or not hired.is_ready)

    def _lose(self, name: str, hired: _Hired, *, is_fault: bool) -> Lost:
        """Has the shards of a worker given to others."""
        holds = () if hired.message is None else hired.message.holds
        while True:
            lost: Lost | None = self.cluster.ask(self.coordinator.lost, name, is_fault=is_fault, holds=holds)
            if lost is not None:
                self._gone.append(name)
                return lost
            self._teach()

    def _blame(self, node: str, failure: str, lost: Lost, *, is_broken: bool) -> None:
        """Sets shards aside that kill. Raises EngineError where it is not the shards."""
        whose = f"; it had {some(list(lost.deaths))}" if lost.deaths else ""
        logger.warning("a worker died: %s%s", failure, whose)
        self._judge.blame(node, lost.deaths)
        for name in lost.condemned:
            error = f"{MAX_DEATHS} worker processes died while they had this shard; the last one: {failure}"
            report = ShardReport(shard=name, status="failed", error=error)
            self.task.ledger.commit(report)
            self._note(report)
            logger.warning("shard %s is set aside: %s", name, error)
        if not lost.condemned:
            self._judge.count(failure, lost.deaths.values(), is_broken=is_broken)

    def _dismiss(self, name: str) -> None:
        """Ends a worker's process, or withdraws it."""
        hired = self._workers.pop(name)
        self.cluster.end(hired.actor)
        self.totals.forget(name)


def _names() -> Iterator[str]:
    """Names of workers, which no other run has."""
    token = secrets.token_hex(3)
    return (f"{token}-{number}" for number in itertools.count(1))
