"""Which request sits in which slot, what it has said so far, and when it is done. Knows ids and counts, no tensors.

In-flight batching: requests wait in line, join in groups when slots come free, and leave at their stop token, their
limit or a loop, while the others go on.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recap_fast.generate.loop import LoopDetector
from recap_fast.records import Completion, FinishReason, Request


@dataclass(frozen=True, slots=True)
class Admission:
    """Requests that join in the coming step, and the slots they get."""

    requests: tuple[Request, ...]
    slots: NDArray[np.int64]


class Scheduler:
    """The slots of one engine. `admit`, run the step, `collect` its tokens; repeat."""

    def __init__(
        self, num_slots: int, prefill_images: int, max_new_tokens: int, stop_ids: Sequence[int], *, loop_stop: bool
    ):
        self.num_slots = num_slots
        self.prefill_images = min(prefill_images, num_slots)
        self._stop_ids = np.array(stop_ids, np.int32)
        self._waiting: deque[Request] = deque()
        self._running: dict[int, Request] = {}
        self._free = list(range(num_slots - 1, -1, -1))
        self._tokens = np.zeros((num_slots, max_new_tokens), np.int32)
        self._counts = np.zeros(num_slots, np.int64)
        self._limits = np.zeros(num_slots, np.int64)
        self._loops = LoopDetector(num_slots) if loop_stop else None

    @property
    def free_slots(self) -> int:
        """Slots that neither a running nor a waiting request has a claim on."""
        return len(self._free) - len(self._waiting)

    @property
    def running(self) -> NDArray[np.int64]:
        """The slots of the running requests, ascending."""
        return np.array(sorted(self._running), np.int64)

    def noise_keys(self, slots: NDArray[np.int64]) -> tuple[list[int], NDArray[np.int64]]:
        """What names the random numbers of the next token of each slot: the request's key and the token's number."""
        return [self._running[int(s)].noise_key for s in slots], self._counts[slots]

    def submit(self, requests: Sequence[Request]) -> None:
        """Puts requests in line. Raises ValueError where there are more than `free_slots`."""
        if len(requests) > self.free_slots:
            raise ValueError(f"{len(requests)} requests given, {self.free_slots} slots are free")
        self._waiting.extend(requests)

    def admit(self) -> Admission | None:
        """Gives slots to the first in line: at most `prefill_images`, and only once as many slots are free.

        Waiting for the group keeps prefills large; where the line is shorter than the group there is nothing to wait
        for, so whoever is in it joins. The lowest slots are given first: steps then work on a dense range.
        """
        if not self._waiting or len(self._free) < self.prefill_images:
            return None
        requests = tuple(self._waiting.popleft() for _ in range(min(self.prefill_images, len(self._waiting))))
        slots = np.array([self._free.pop() for _ in requests], np.int64)
        for request, slot in zip(requests, slots.tolist(), strict=True):
            self._running[slot] = request
            self._limits[slot] = request.max_new_tokens
        self._counts[slots] = 0
        if self._loops is not None:
            self._loops.start(slots)
        return Admission(requests, slots)

    def collect(self, slots: NDArray[np.int64], tokens: NDArray[np.int32]) -> list[Completion]:
        """Takes the new token of each slot; frees the slots of those that ended and returns their completions."""
        counts = self._counts[slots]
        self._tokens[slots, counts] = tokens
        self._counts[slots] = counts = counts + 1
        stopped = np.isin(tokens, self._stop_ids)
        repeated = self._loops.update(slots, tokens) if self._loops is not None else np.zeros(len(slots), np.int64)
        ended = stopped | (counts >= self._limits[slots]) | (repeated > 0)
        return [self._retire(int(slots[i]), bool(stopped[i]), int(repeated[i])) for i in np.flatnonzero(ended).tolist()]

    def _retire(self, slot: int, stopped: bool, repeated: int) -> Completion:
        count = int(self._counts[slot])
        reason: FinishReason = "stop" if stopped else "loop" if repeated else "length"
        keep = count - 1 if stopped else count - repeated
        request = self._running.pop(slot)
        self._free.append(slot)
        self._free.sort(reverse=True)
        return Completion(request.id, self._tokens[slot, :keep].copy(), reason, count)
