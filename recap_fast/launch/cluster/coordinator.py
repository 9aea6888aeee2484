"""Who does which shard: hands out one at a time, takes back what dead workers had, and remembers who died of what.

It knows nothing of Ray, of images or of the output: shards are names with some bytes. Workers say with every call what
they hold, and that counts, so a lost answer or a coordinator that was started again loses nothing. The driver tells it
of deaths and is told what the workers have said.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from recap_fast.launch.cluster.protocol import Answer, Heard, Lost, Memory, Message, State

MAX_DEATHS = 3
"""A shard that so many processes have died with is handed out no more."""
ASK_AGAIN_S = 0.3
"""A worker asks again for a shard after this time where it has to wait for one."""
CALLS_PER_S = 200.0
"""Of workers that say how they are, however many there are; a single one calls once a second."""
RECOVERY_S = 15.0
"""A coordinator that was started again waits so long for workers that live and say nothing."""
MAX_SAID = 200
"""Log records of a worker that are kept for the driver; those beyond are dropped."""


@dataclass(slots=True)
class _Worker:
    holds: set[str] = field(default_factory=set)
    node: str = ""
    owner: str = ""
    drain_at: float | None = None


@dataclass(slots=True)
class _Suspect:
    """A shard that a process has died with."""

    deaths: int = 0
    owners: list[str] = field(default_factory=list)
    node: str = ""
    """Where the last one died: its note of the image that it was decoding may lie there."""


class Coordinator:
    """The shards of a run, and the workers that have them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """It knows nothing yet, at the start of a run or after another one has died: `learn` comes first."""
        self.instance = secrets.token_hex(4)
        self._clock = clock
        self._shards: dict[str, bytes] = {}
        self._pending: deque[str] = deque()
        self._suspects: dict[str, _Suspect] = {}
        """Shards with a death, whoever has them now."""
        self._waiting: dict[str, None] = {}
        """Suspects that nobody has, in order."""
        self._given: set[str] = set()
        self._ended: set[str] = set()
        self._workers: dict[str, _Worker] = {}
        self._gone: set[str] = set()
        self._heard: dict[str, Heard] = {}
        self._drain_at: float | None = None
        self._is_lost = True
        self._unheard: set[str] = set()
        """Workers that live and that it has not heard from."""
        self._recovered_at = 0.0

    def take(self, message: Message) -> Answer:
        """Hears a worker and gives it a shard, if there is one that it may have."""
        answer = self.beat(message)
        worker = self._workers.get(message.worker)
        if worker is None or answer.drain_s is not None:
            return answer
        if self._is_recovering():
            return replace(answer, wait=True, pause_s=ASK_AGAIN_S)
        if any(name in self._suspects for name in worker.holds):  # alone: if the process dies, it is this shard's fault
            return replace(answer, wait=self._num_pending > 0, pause_s=ASK_AGAIN_S)
        if self._pending:
            return self._give(self._pending.popleft(), worker, answer)
        suspect = self._find_suspect(worker)
        if suspect is None:
            return answer
        if worker.holds:
            return replace(answer, wait=True, pause_s=ASK_AGAIN_S)
        del self._waiting[suspect]
        return replace(self._give(suspect, worker, answer), dead=tuple(self._suspects[suspect].owners))

    def beat(self, message: Message) -> Answer:
        """Hears a worker."""
        if message.worker in self._gone:  # it was taken for dead, and its shards are with others
            return Answer(instance=self.instance, drain_s=0.0)
        worker = self._workers.setdefault(message.worker, _Worker())
        worker.node, worker.owner = message.node, message.owner
        self._unheard.discard(message.worker)
        self._hear(message)
        self._hold(worker, message.holds)
        deadlines = [at for at in (worker.drain_at, self._drain_at) if at is not None]
        return Answer(
            instance=self.instance,
            drain_s=max(0.0, min(deadlines) - self._clock()) if deadlines else None,
            pause_s=max(1.0, len(self._workers) / CALLS_PER_S),
        )

    def lost(self, worker: str, *, is_fault: bool, holds: Iterable[str] = ()) -> Lost | None:
        """A worker is no more: what it held goes to others. `holds` is what the driver knows of that.

        `is_fault`: its process died, and not its node; this counts for the shards that it held. None where the
        coordinator has to `learn` first.
        """
        if self._is_lost:
            return None
        if worker in self._gone:
            return Lost()
        known = self._workers.pop(worker, None) or _Worker(holds=set(holds))
        self._gone.add(worker)
        self._unheard.discard(worker)
        deaths: dict[str, int] = {}
        condemned = []
        for name in sorted(known.holds - self._ended):
            if is_fault:
                suspect = self._suspects.setdefault(name, _Suspect())
                suspect.deaths += 1
                suspect.owners.append(known.owner)
                suspect.node = known.node
                deaths[name] = suspect.deaths
                if suspect.deaths >= MAX_DEATHS:
                    self._ended.add(name)
                    condemned.append(name)
                    continue
            self._put_back(name)
        return Lost(deaths=deaths, condemned=tuple(condemned))

    def forgive(self, names: Collection[str]) -> None:
        """A death of these shards' process was that of its node."""
        for name in names:
            suspect = self._suspects.get(name)
            if suspect is None:
                continue
            suspect.deaths -= 1
            if suspect.deaths < 1:
                del self._suspects[name]
                if name in self._waiting:
                    del self._waiting[name]
                    self._pending.appendleft(name)

    def drain(self, seconds: float, workers: Collection[str] | None = None) -> None:
        """These workers, or all there are and will be, take nothing new and end within so many seconds."""
        at = self._clock() + seconds
        if workers is None:
            self._drain_at = at if self._drain_at is None else min(at, self._drain_at)
            return
        for name in workers:
            if (worker := self._workers.get(name)) is not None and worker.drain_at is None:
                worker.drain_at = at

    def add(self, shards: Mapping[str, bytes]) -> None:
        """Takes shards, in the order in which they are handed out, before it learns the rest."""
        self._shards.update(shards)

    def learn(self, memory: Memory) -> None:
        """Takes over what a predecessor knew, as far as the driver knows it; the workers say the rest."""
        self._gone |= set(memory.gone)
        self._ended |= set(memory.ended)
        self._given |= set(memory.given)
        for name, deaths in memory.deaths.items():
            self._suspects[name] = _Suspect(deaths)
        unheard = memory.workers.keys() - self._workers.keys() - self._gone
        for name in unheard:  # until they say so themselves
            message = memory.workers[name]
            worker = self._workers[name] = _Worker(node=message.node, owner=message.owner)
            self._hold(worker, message.holds)
        taken = self._ended.union(*(worker.holds for worker in self._workers.values()))
        self._pending = deque(name for name in self._shards if name not in taken and name not in self._suspects)
        self._waiting = {name: None for name in self._suspects if name not in taken}
        self._unheard = unheard
        self._recovered_at = self._clock() + RECOVERY_S
        self._is_lost = False

    def state(self) -> State:
        """Where things stand. What was heard is told once."""
        heard, self._heard = self._heard, {}
        held = sum(len(worker.holds) for worker in self._workers.values())
        return State(instance=self.instance, is_lost=self._is_lost, pending=self._num_pending, held=held, heard=heard)

    @property
    def _num_pending(self) -> int:
        return len(self._pending) + len(self._waiting)

    def _is_recovering(self) -> bool:
        return self._is_lost or (bool(self._unheard) and self._clock() < self._recovered_at)

    def _is_taken(self, name: str) -> bool:
        return name in self._ended or any(name in worker.holds for worker in self._workers.values())

    def _hear(self, message: Message) -> None:
        bare = replace(message, reports=(), said=())
        heard = self._heard.setdefault(message.worker, Heard(message=bare))
        heard.message = bare
        heard.reports += message.reports
        heard.said += message.said[: MAX_SAID - len(heard.said)]
        worker = self._workers[message.worker]
        for report in message.reports:
            was_held = report.shard in worker.holds
            worker.holds.discard(report.shard)
            if report.status == "interrupted":
                self._put_back(report.shard)
            else:
                self._end(report.shard, was_held)

    def _end(self, name: str, was_held: bool) -> None:
        self._ended.add(name)
        self._suspects.pop(name, None)
        self._waiting.pop(name, None)
        if not was_held and name in self._pending:
            self._pending.remove(name)

    def _hold(self, worker: _Worker, names: Collection[str]) -> None:
        """What a worker holds is what it says: an answer that was lost on the way gave it nothing."""
        for name in worker.holds.difference(names):
            worker.holds.discard(name)
            self._put_back(name)
        for name in set(names) - worker.holds - self._ended:
            worker.holds.add(name)
            self._given.add(name)
            self._waiting.pop(name, None)
            if name in self._pending:  # the coordinator was started again since it gave it
                self._pending.remove(name)

    def _put_back(self, name: str) -> None:
        if self._is_taken(name) or name not in self._shards:
            return
        if name in self._suspects:
            self._waiting[name] = None
        elif name not in self._pending:
            self._pending.appendleft(name)  # what is begun comes first

    def _find_suspect(self, worker: _Worker) -> str | None:
        """The next suspect for this worker: one whose last process died on its node, or on one that no worker is on.

        The note of the image that was being decoded may lie on that node alone.
        """
        nodes = {each.node for each in self._workers.values() if each.drain_at is None}
        near = (name for name in self._waiting if self._suspects[name].node in ("", worker.node))
        far = (name for name in self._waiting if self._suspects[name].node not in nodes)
        return next(near, None) or next(far, None)

    def _give(self, name: str, worker: _Worker, answer: Answer) -> Answer:
        worker.holds.add(name)
        again = name in self._given
        self._given.add(name)
        return replace(answer, shard=self._shards[name], again=again)
