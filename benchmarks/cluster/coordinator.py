"""The coordinator with many pending shards and workers that only sleep: start-up, memory, calls, shards a second."""

import pickle
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recap_fast.launch.cluster.coordinator import Coordinator
from recap_fast.launch.cluster.protocol import Answer, Memory, Message, pack, unpack
from recap_fast.records import Shard, ShardReport

NOTHING = Memory(workers={}, ended=(), given=(), deaths={}, gone=())
AT_ONCE = 1000
"""Shards in one call, as the supervisor gives them."""


class Sleeper:
    """A simulated worker: as soon as it is given a shard, it reports on it and asks for the next."""

    def __init__(self, name: str):
        self.name = name
        self.held: str | None = None
        self.num_done = 0

    def message(self) -> Message:
        """What it says next: it has finished what it was given."""
        reports = ()
        if self.held is not None:
            reports = (ShardReport(shard=self.held, status="complete", rows=10_000, captioned=10_000),)
            self.num_done += 1
        self.held = None
        return Message(worker=self.name, node="node", owner=self.name, age_s=1.0, boot_s=1.0, reports=reports)

    def hear(self, answer: Answer) -> bool:
        """Whether it goes on."""
        self.held = unpack(answer.shard).name if answer.shard is not None else None
        return answer.shard is not None or answer.wait


def make_shards(num: int) -> list[Shard]:
    """Tars in a bucket."""
    return [Shard(f"part-{n // 1000:03d}/{n:08d}", f"s3://bucket/images/{n:08d}.tar", "tar") for n in range(num)]


def teach(call: Callable[..., Any], coordinator: Any, shards: list[Shard]) -> None:
    """Gives a coordinator its shards, as the supervisor does."""
    for start in range(0, len(shards), AT_ONCE):
        call(coordinator.add, {shard.name: pack(shard) for shard in shards[start : start + AT_ONCE]})
    call(coordinator.learn, NOTHING)


def alone(num_shards: int, num_workers: int) -> dict[str, Any]:
    """In this process; each message and answer is pickled, as on its way."""
    shards = make_shards(num_shards)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    coordinator = Coordinator()
    teach(lambda method, *given: method(*given), coordinator, shards)
    num_bytes = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    start = time.perf_counter()
    teach(lambda method, *given: method(*given), Coordinator(), shards)
    startup_s = time.perf_counter() - start
    sleepers = [Sleeper(f"worker-{number}") for number in range(num_workers)]
    calls, seconds = 0, []
    while sleepers:
        begun, left = time.perf_counter(), []
        for sleeper in sleepers:
            message = pickle.loads(pickle.dumps(sleeper.message()))
            answer = pickle.loads(pickle.dumps(coordinator.take(message)))
            calls += 1
            if sleeper.hear(answer):
                left.append(sleeper)
        coordinator.state()
        if len(left) == len(sleepers):
            seconds.append(time.perf_counter() - begun)
        sleepers = left
    rounds = [num_workers / each for each in seconds]
    figures = {
        "coordinator alone: bytes a pending shard": num_bytes / num_shards,
        "coordinator alone: start-up, s": startup_s,
        "coordinator alone: calls a shard": calls / num_shards,
        "coordinator alone: shards/s, first round": rounds[0],
        "coordinator alone: shards/s, last round": rounds[-1],
        "coordinator alone: shards/s": len(seconds) * num_workers / sum(seconds),
    }
    return {"figures": figures, "round_s": seconds}


class Client:
    """An actor that simulates many workers: each has a call on its way all the time."""

    def run(self, coordinator: Any, first: int, num: int) -> int:
        """How many shards they have done."""
        import ray

        sleepers = [Sleeper(f"worker-{number}") for number in range(first, first + num)]
        on_way = {coordinator.take.remote(sleeper.message()): sleeper for sleeper in sleepers}
        while on_way:
            ready, _ = ray.wait(list(on_way), num_returns=min(len(on_way), 256), timeout=0.1)
            for ref, answer in zip(ready, ray.get(ready), strict=True):
                sleeper = on_way.pop(ref)
                if sleeper.hear(answer):
                    on_way[coordinator.take.remote(sleeper.message())] = sleeper
        return sum(sleeper.num_done for sleeper in sleepers)


def _memory(_: Any) -> int:
    """Bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def through_ray(num_shards: int, num_workers: int, num_clients: int) -> dict[str, Any]:
    """The coordinator as an actor of its own, and the workers in a few others: a process each would not fit here."""
    import ray

    from recap_fast.launch.cluster.connection import connect

    with connect("local", None) as cluster:
        start = time.perf_counter()
        coordinator = cluster.start_coordinator()
        cluster.ask(coordinator.state)
        actor_s = time.perf_counter() - start
        before = ray.get(coordinator.__ray_call__.remote(_memory))
        start = time.perf_counter()
        teach(cluster.ask, coordinator, make_shards(num_shards))
        startup_s = time.perf_counter() - start
        grown = ray.get(coordinator.__ray_call__.remote(_memory)) - before
        clients = [ray.remote(Client).options(num_cpus=0).remote() for _ in range(num_clients)]
        ray.get([client.run.remote(coordinator, 0, 0) for client in clients])  # they are there
        start = time.perf_counter()
        each = num_workers // num_clients
        work = [client.run.remote(coordinator, index * each, each) for index, client in enumerate(clients)]
        done = sum(ray.get(work))
        seconds = time.perf_counter() - start
        state = cluster.ask(coordinator.state)
    assert done == num_shards
    assert state.pending + state.held == 0
    figures = {
        "through Ray: actor, s": actor_s,
        f"through Ray: {num_shards:,} shards told, s": startup_s,
        "through Ray: memory of the empty coordinator's process, MB": before / 1e6,
        f"through Ray: more with {num_shards:,} shards, MB": grown / 1e6,
        f"through Ray: shards/s to {num_workers:,} workers in {num_clients} processes": num_shards / seconds,
    }
    return {"figures": figures, "seconds": seconds}
