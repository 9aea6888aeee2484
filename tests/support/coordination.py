"""A coordinator's world without Ray: workers that take shards, finish them and die, and a driver that remembers."""

from dataclasses import replace

from recap_fast.launch.cluster.coordinator import Coordinator
from recap_fast.launch.cluster.protocol import Memory, Message, pack, unpack
from recap_fast.records import Shard, ShardReport


def make_shards(*names):
    return {name: pack(Shard(name, f"/in/{name}.tar", "tar")) for name in names}


def report(name, status="complete"):
    return ShardReport(shard=name, status=status, rows=10, captioned=10)


class Clock:
    """A time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def begin(*names, clock=None, **known):
    """A coordinator that was told of these shards, and of what is `known` besides."""
    coordinator = Coordinator(clock or Clock())
    coordinator.add(make_shards(*names))
    coordinator.learn(replace(Memory(workers={}, ended=(), given=(), deaths={}, gone=()), **known))
    return coordinator


class FakeWorker:
    """What a worker says, and what it has."""

    def __init__(self, name, node="node", holds=()):
        self.name, self.node, self.holds = name, node, list(holds)

    def message(self, *reports):
        for each in reports:
            self.holds.remove(each.shard)
        return Message(
            worker=self.name,
            node=self.node,
            owner=f"owner of {self.name}",
            age_s=1.0,
            holds=tuple(self.holds),
            reports=reports,
        )

    def take(self, coordinator, *reports):
        """Asks for a shard; the answer."""
        answer = coordinator.take(self.message(*reports))
        if answer.shard is not None:
            self.holds.append(unpack(answer.shard).name)
        return answer

    def takes(self, coordinator, *reports):
        """The name of the shard that it is given, 'wait' or None."""
        answer = self.take(coordinator, *reports)
        return unpack(answer.shard).name if answer.shard is not None else ("wait" if answer.wait else None)

    def beat(self, coordinator, *reports):
        return coordinator.beat(self.message(*reports))
