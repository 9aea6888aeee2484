"""The door to Ray: starts actors on a cluster, and says what became of them; connection.py opens it.

Ray is told little: an actor a worker, one for the coordinator, and no images or rows in either. Its own messages stay
off the terminal; what they say is said by the run.
"""

import logging
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recap_fast.launch.cluster.coordinator import Coordinator
from recap_fast.launch.cluster.protocol import Answer, Message
from recap_fast.launch.cluster.task import Outcome, Task
from recap_fast.launch.cluster.worker import Worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that ended without a word."""

    reason: str
    is_final: bool = True
    """Not where Ray only cannot reach it now."""


class WorkerActor:
    """A worker, as an actor. It runs in its process's main thread, where signals are handled."""

    def __init__(self, task: Task, coordinator: Any, name: str):
        import ray

        self._outcome = Outcome(failure="it was not begun")
        self._drain_s = task.config.drain_seconds
        self._worker = Worker(task, _Line(coordinator), name, ray.get_runtime_context().get_node_id())

    def run(self) -> Outcome:
        """As `Worker.run`. A SIGTERM, such as a node sends that goes away, drains it."""
        signal.signal(signal.SIGTERM, lambda *_: self._worker.drain(self._drain_s))
        self._outcome = self._worker.run()
        return self._outcome

    def outcome(self) -> Outcome:
        """That of `run`, which comes first: an actor does one thing at a time."""
        return self._outcome


class _Line:
    """Calls the coordinator's actor."""

    def __init__(self, coordinator: Any):
        self._coordinator = coordinator

    def take(self, message: Message) -> Answer:
        return self._call(self._coordinator.take, message)

    def beat(self, message: Message) -> Answer:
        return self._call(self._coordinator.beat, message)

    def _call(self, method: Any, message: Message) -> Answer:
        import ray

        answer: Answer = ray.get(method.remote(message))
        return answer


class RayCluster:
    """A connection to a cluster."""

    def __init__(self, ray: Any):
        self._ray = ray
        self._own_node: str = ray.get_runtime_context().get_node_id()

    def start_coordinator(self) -> Any:
        """Starts the coordinator, near the driver if it can be; Ray starts it again wherever it dies.

        It gets no arguments: Ray could lose them with a node.
        """
        near = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(self._own_node, soft=True)
        actor = self._ray.remote(Coordinator).options(
            num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=near
        )
        return actor.remote()

    def share(self, task: Task) -> Any:
        """A task for `start_worker`, sent once."""
        return self._ray.put(task)

    def start_worker(self, task: Any, coordinator: Any, name: str, needs: Mapping[str, float]) -> tuple[Any, Any]:
        """Asks for a worker; it begins when the cluster has room. Returns its actor and what `wait` waits for."""
        actor = self._ray.remote(WorkerActor).options(**needs, max_restarts=0).remote(task, coordinator, name)
        return actor, actor.run.remote()

    def outcome_of(self, actor: Any) -> Any:
        """What `wait` waits for, once more, where Ray could not reach a worker."""
        return actor.outcome.remote()

    def wait(self, refs: Sequence[Any], seconds: float) -> list[Any]:
        """Those that have ended, as soon as one has, and else after so long."""
        if not refs:
            time.sleep(seconds)
            return []
        ended, _ = self._ray.wait(list(refs), num_returns=1, timeout=seconds)
        more, _ = self._ray.wait(list(refs), num_returns=len(refs), timeout=0) if ended else ((), ())
        return [*more] or [*ended]

    def outcome(self, ref: Any) -> Outcome | Death:
        """How a worker ended. Raises ConfigError where it cannot begin at all."""
        errors = self._ray.exceptions
        try:
            found: Outcome = self._ray.get(ref)
        except errors.ActorUnavailableError as error:
            return Death(first_line(error), is_final=False)
        except errors.ActorDiedError as error:
            return Death(_why(error))
        except errors.RayError as error:
            return Death(first_line(error))
        return found

    def ask(self, method: Any, *arguments: Any, **named: Any) -> Any:
        """Calls a method of the coordinator and waits for the answer, also while it is started again."""
        ref = method.remote(*arguments, **named)
        while not self._ray.wait([ref], timeout=0.5)[0]:  # signals are handled in between
            pass
        return self._ray.get(ref)

    def end(self, actor: Any) -> None:
        """Ends an actor at once, or withdraws one that waits for a place."""
        self._ray.kill(actor)

    def dead_nodes(self) -> set[str]:
        """Ids of the nodes that are no more."""
        return {node["NodeID"] for node in self._ray.nodes() if not node["Alive"]}

    def draining_nodes(self) -> dict[str, float]:
        """Ids of the nodes that are to go, and in how many seconds; infinite where Ray does not say.

        There is no public way to ask: Ray Serve and Ray Data ask in this one. Where it is gone, no node drains.
        """
        try:
            nodes = self._ray._private.state.state.get_draining_nodes()
            return {name: ms / 1000 - time.time() if ms else float("inf") for name, ms in nodes.items()}
        except Exception:  # noqa: BLE001 - whatever another version of Ray makes of it
            return {}

    def has_gpus(self) -> bool:
        """Whether any node has a GPU."""
        return bool(self._ray.cluster_resources().get("GPU"))

    def room_for(self, needs: Mapping[str, float]) -> int:
        """How many workers fit beside what runs, as far as the sums over all nodes tell."""
        free = self._ray.available_resources()
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        return int(min(free.get(names[name], 0.0) // count for name, count in needs.items() if count))


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _why(error: BaseException) -> str:
    """What Ray says of a death, without the lines that name the actor."""
    lines = [line.strip() for line in str(error).splitlines() if line and not line.startswith(("\t", "The actor died"))]
    text = " ".join(lines) or first_line(error)
    return text.partition(" Some common causes")[0]
