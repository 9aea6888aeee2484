"""Which request sits in which slot, what it has said so far, and when it is done. Knows ids and counts, no tensors.

In-flight batching: requests wait in line, join in groups when slots come free, and leave at their stop token, their
limit or a loop, while the others go on. A step is launched before the tokens of the one before it are known to the
host, where the device is a GPU: then a caption that has stopped is computed one step too many, and that token is
dropped.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recap_fast.generate.loop_detector import LoopDetector
from recap_fast.generate.spec import Sizes, SlotShape
from recap_fast.records import Completion, FinishReason, Request


@dataclass(frozen=True, slots=True)
class Launch:
    """What one step computes: n requests that join, and the next token of B running captions."""

    requests: tuple[Request, ...]
    """Those that join, n."""
    slots: NDArray[np.int64]
    """[n + B]: the slots of those that join, then of the running ones, ascending."""
    positions: NDArray[np.int64]
    """[n + B]: of the row that each next token is read from: a prompt's last one, or the newest token's."""
    counters: NDArray[np.int64]
    """[n + B]: which token of its caption each makes, from 0."""
    tickets: NDArray[np.int64]
    """[n + B]: who sat in the slot at that time."""

    @property
    def running(self) -> slice:
        """The part of the arrays that is about running captions."""
        return slice(len(self.requests), None)


class Scheduler:
    """The slots of one engine. `launch`, run the step, `collect` its tokens, now or after the next launch; repeat."""

    def __init__(self, sizes: Sizes, shape: SlotShape, stop_ids: Sequence[int], *, loop_stop: bool):
        num_slots = sizes.num_slots
        self.num_slots, self.prefill_images = num_slots, min(sizes.prefill_images, num_slots)
        self._text_start = shape.text_start
        self._stop_ids = np.array(stop_ids, np.int32)
        self._waiting: deque[Request] = deque()
        self._free = list(range(num_slots))
        self._requests: list[Request | None] = [None] * num_slots
        numbers = np.zeros((5, num_slots), np.int64)
        self._tickets, self._last, self._launched, self._counts, self._limits = numbers
        self._tokens = np.zeros((num_slots, shape.max_new_tokens), np.int32)
        self._loops = LoopDetector(num_slots) if loop_stop else None

    @property
    def free_slots(self) -> int:
        """Slots that neither a running nor a waiting request has a claim on."""
        return len(self._free) - len(self._waiting)

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits and nobody is seated."""
        return len(self._free) == self.num_slots and not self._waiting

    def noise_keys(self, launch: Launch) -> list[int]:
        """What names the random numbers of each caption of a step that was launched just now."""
        seated = [self._requests[slot] for slot in launch.slots.tolist()]
        return [0 if request is None else request.noise_key for request in seated]

    def submit(self, requests: Sequence[Request]) -> None:
        """Puts requests in line. Raises ValueError where there are more than `free_slots`."""
        if len(requests) > self.free_slots:
            raise ValueError(f"{len(requests)} requests given, {self.free_slots} slots are free")
        self._waiting.extend(requests)

    def launch(self, *, full_groups: bool = False) -> Launch | None:
        """What the next step is to compute; None where there is nothing.

        `full_groups`: while captions are running, requests wait until there are `prefill_images` of them.
        """
        running = np.flatnonzero(self._launched < self._limits)
        requests = self._admit(self.prefill_images if full_groups and len(running) else 1)
        joining = np.array([heapq.heappop(self._free) for _ in requests], np.int64)
        for request, slot in zip(requests, joining.tolist(), strict=True):
            self._requests[slot] = request
            self._limits[slot] = request.max_new_tokens
            self._last[slot] = self._text_start + len(request.text_ids) - 1
        self._counts[joining] = 0
        self._tickets[joining] += 1
        if self._loops is not None:
            self._loops.start(joining)
        slots = np.concatenate([joining, running])
        if not len(slots):
            return None
        counters = self._launched[slots]
        self._launched[slots] = counters + 1
        return Launch(requests, slots, self._last[slots] + counters, counters, self._tickets[slots])

    def _admit(self, at_least: int) -> tuple[Request, ...]:
        """The first in line, at most `prefill_images`; none while fewer slots are free, or fewer than `at_least` wait.

        Waiting for slots keeps prefills large; so does waiting for requests where input is slow. A group that is not
        full joins once nothing runs, so that it waits no longer than a caption takes. The lowest slots are
        given first: steps then work on a dense range.
        """
        if len(self._free) < self.prefill_images or len(self._waiting) < at_least:
            return ()
        return tuple(self._waiting.popleft() for _ in range(min(self.prefill_images, len(self._waiting))))

    def collect(self, launch: Launch, tokens: NDArray[np.int32]) -> list[Completion]:
        """Takes the tokens [n + B] of a step; frees the slots of the captions that ended, and returns those.

        Steps are collected in the order of their launch.
        """
        still = (self._tickets[launch.slots] == launch.tickets) & (self._limits[launch.slots] > 0)
        slots, tokens = launch.slots[still], tokens[still]
        counts = self._counts[slots]
        self._tokens[slots, counts] = tokens
        self._counts[slots] = counts = counts + 1
        stopped = (tokens[:, None] == self._stop_ids).any(axis=1)
        repeated = self._loops.update(slots, tokens) if self._loops is not None else np.zeros(len(slots), np.int64)
        ended = stopped | (counts >= self._limits[slots]) | (repeated > 0)
        return [self._retire(int(slots[i]), bool(stopped[i]), int(repeated[i])) for i in np.flatnonzero(ended).tolist()]

    def _retire(self, slot: int, stopped: bool, repeated: int) -> Completion:
        count = int(self._counts[slot])
        reason: FinishReason = "stop" if stopped else "loop" if repeated else "length"
        keep = count - 1 if stopped else count - repeated
        request, self._requests[slot] = self._requests[slot], None
        assert request is not None
        self._limits[slot] = self._launched[slot] = 0
        heapq.heappush(self._free, slot)
        return Completion(request.id, self._tokens[slot, :keep].copy(), reason, count)
