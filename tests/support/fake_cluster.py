"""A cluster without Ray: what workers do is scripted, and the coordinator is a real one in this process."""

from support.coordination import FakeWorker, report

from recap_fast.launch.cluster.coordinator import Coordinator
from recap_fast.launch.cluster.rays import Death
from recap_fast.launch.cluster.task import Outcome


class Script(FakeWorker):
    """A worker that does a thing each time that the supervisor waits. Its actor and its ref are itself."""

    def __init__(self, name, acts):
        super().__init__(name)
        self.acts, self.found = iter(acts), None


class FakeCluster:
    """As RayCluster. `scripts` are those of the workers, in the order in which they are asked for; see `act`."""

    def __init__(self, scripts, room=1):
        self.scripts, self.room = list(scripts), room
        self.coordinator = Coordinator()
        self.workers, self.ended = [], []
        self.dead, self.draining = set(), {}

    def share(self, task):
        return task

    def start_worker(self, task, coordinator, name, needs):
        worker = Script(name, self.scripts.pop(0) if self.scripts else ["sleep"] * 1000)
        self.workers.append(worker)
        return worker, worker

    def wait(self, refs, seconds):
        for worker in refs:
            self.act(worker, next(worker.acts))
        return [worker for worker in refs if worker.found is not None]

    def act(self, worker, what):
        """Does a thing: 'boot', 'take', 'finish', 'interrupt', 'die', 'node dies', 'unreachable', 'end', 'sleep'; or
        ends with an outcome; or does what a function does."""
        if isinstance(what, Outcome):
            worker.found = what
        elif callable(what):
            what(self, worker)
        elif what == "boot":
            self.coordinator.beat(worker.message())
            self.room -= 1
        elif what == "take":
            worker.take(self.coordinator)
        elif what in ("finish", "interrupt"):
            status = "complete" if what == "finish" else "interrupted"
            self.coordinator.beat(worker.message(*(report(name, status) for name in list(worker.holds))))
        elif what == "die":
            worker.found = Death("killed")
        elif what == "node dies":
            worker.found = Death("its node died")
            self.dead.add(worker.node)
        elif what == "unreachable":
            worker.found = Death("no answer", is_final=False)
        elif what == "end":
            worker.found = Outcome()

    def outcome(self, ref):
        return ref.found

    def outcome_of(self, actor):
        actor.found = None
        return actor

    def ask(self, method, *arguments, **named):
        """The coordinator may be another one now."""
        return getattr(self.coordinator, method.__name__)(*arguments, **named)

    def end(self, actor):
        self.room += 1
        self.ended.append(actor.name)

    def dead_nodes(self):
        return self.dead

    def draining_nodes(self):
        return self.draining

    def room_for(self, needs):
        return max(0, self.room)
