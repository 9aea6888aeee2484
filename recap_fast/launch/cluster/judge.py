"""Whose fault the death of a worker is: its node's, its shards', or that of an engine that no worker could run."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from recap_fast.errors import EngineError

MAX_FAILURES = 3
"""So many workers in a row may break or not begin while no shard is finished."""
MAX_DEATHS_IN_A_ROW = 12
"""So many processes in a row may die with shards that nobody died with before, while no shard is finished."""
FORGIVEN_S = 60.0
"""A process that died at most so long before its node is known to be dead died of that."""


@dataclass(frozen=True, slots=True)
class _Fault:
    """A process that died with shards."""

    at: float
    node: str
    names: tuple[str, ...]


class Judge:
    """Remembers which shards processes have died with."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self.deaths: dict[str, int] = {}
        """By shard, the processes that have died with it."""
        self._faults: list[_Fault] = []
        self._num_failures = self._num_deaths = 0

    def finished(self, shard: str) -> None:
        """A shard has ended: whatever was, workers can work."""
        self._num_failures = self._num_deaths = 0
        self.deaths.pop(shard, None)

    def blame(self, node: str, deaths: Mapping[str, int]) -> None:
        """A process on this node died with shards, each of which so many have died with now."""
        self.deaths.update(deaths)
        self._faults.append(_Fault(self._clock(), node, tuple(deaths)))

    def count(self, failure: str, deaths: Collection[int], *, is_broken: bool) -> None:
        """Raises EngineError where one worker after another dies. `deaths` are those of the shards that this one had.

        `is_broken`: it could not begin, or its engine broke.
        """
        self._num_failures += is_broken
        self._num_deaths += min(deaths, default=1) == 1  # else it is explained by a shard
        for num, most in ((self._num_failures, MAX_FAILURES), (self._num_deaths, MAX_DEATHS_IN_A_ROW)):
            if num >= most:
                raise EngineError(
                    f"{num} workers in a row broke, and no shard was finished in between. The last one: {failure}"
                )

    @property
    def suspects_nodes(self) -> bool:
        """Whether a process has died so recently that it may have been its node."""
        now = self._clock()
        self._faults = [fault for fault in self._faults if now - fault.at < FORGIVEN_S]
        return bool(self._faults)

    def forgive(self, dead_nodes: Collection[str]) -> tuple[str, ...]:
        """Takes back the deaths of processes whose nodes were dying; returns the shards."""
        forgiven = [fault for fault in self._faults if fault.node in dead_nodes]
        self._faults = [fault for fault in self._faults if fault not in forgiven]
        names = tuple(name for fault in forgiven for name in fault.names)
        for name in names:
            if (deaths := self.deaths.pop(name, 0)) > 1:
                self.deaths[name] = deaths - 1
        return names
