"""Which request sits in which slot, what it has said so far, and when it is done. Knows ids and counts, no tensors.

In-flight batching: requests wait in line, join in groups when slots come free, and leave at their stop token, their
limit or a loop, while the others go on. A step is launched before the tokens of the one before it are known to the
host, where the device is a GPU: then a caption that has stopped is computed one step too many, and that token is
dropped.

The requests of one image take their slots together. The first of them, the lead, joins with the image; the others are
its branches and join in the next step, with keys and values of the image from the lead's slot. Nothing else joins in
between: so these are still there, even if the lead's caption has ended by then.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np
from numpy.typing import NDArray

from recap_fast.generate.loop_detector import LoopDetector
from recap_fast.generate.spec import Sizes, SlotShape
from recap_fast.records import Completion, FinishReason, Request

NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Launch:
    """What one step computes: n requests that join, all with their images or all without, and the next token of B
    running captions."""

    requests: tuple[Request, ...]
    """Those that join, n."""
    sources: NDArray[np.int64] | None
    """[n]: the slots that have the images of those that join, where they join without."""
    slots: NDArray[np.int64]
    """[n + B]: the slots of those that join, then of the running ones, ascending."""
    positions: NDArray[np.int64]
    """[n + B]: of the row that each next token is read from: a prompt's last one, or the newest token's."""
    counters: NDArray[np.int64]
    """[n + B]: which token of its caption each makes, from 0."""
    tickets: NDArray[np.int64]
    """[n + B]: who sat in the slot at that time."""

    @property
    def num_images(self) -> int:
        """How many images are computed."""
        return len(self.requests) if self.sources is None else 0

    @property
    def running(self) -> slice:
        """The part of the arrays that is about running captions."""
        return slice(len(self.requests), None)


class Scheduler:
    """The slots of one engine. `launch`, run the step, `collect` its tokens, now or after the next launch; repeat."""

    def __init__(
        self,
        sizes: Sizes,
        shape: SlotShape,
        stop_ids: Sequence[int],
        *,
        loop_stop: bool,
        captions_per_image: int = 1,
    ):
        """`captions_per_image`: how many requests of one image share it; more than that have it computed again."""
        num_slots = sizes.num_slots
        self.num_slots, self.prefill_images = num_slots, min(sizes.prefill_images, num_slots)
        self._largest_group = min(captions_per_image, num_slots)
        self._text_start = shape.text_start
        self._stop_ids = np.array(stop_ids, np.int32)
        self._waiting: deque[list[Request]] = deque()
        """By image, the lead first."""
        self._num_waiting = 0
        self._branches: list[tuple[Request, int, int]] = []
        """Requests whose images joined in the last step, with their slots and those of their leads."""
        self._free = list(range(num_slots))
        self._requests: list[Request | None] = [None] * num_slots
        numbers = np.zeros((5, num_slots), np.int64)
        self._tickets, self._last, self._launched, self._counts, self._limits = numbers
        self._tokens = np.zeros((num_slots, shape.max_new_tokens), np.int32)
        self._loops = LoopDetector(num_slots) if loop_stop else None

    @property
    def free_slots(self) -> int:
        """Slots that neither a running nor a waiting request has a claim on."""
        return len(self._free) - self._num_waiting

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
        for request in requests:
            if not self._shares_image(request):
                self._waiting.append([])
            self._waiting[-1].append(request)
        self._num_waiting += len(requests)

    def _shares_image(self, request: Request) -> bool:
        """Whether it is of the image that is last in line. A branch needs a text: its first token is read behind it."""
        if not self._waiting or len(self._waiting[-1]) == self._largest_group or not len(request.text_ids):
            return False
        return request.same_image_as is not None and request.image_id == self._waiting[-1][0].image_id

    def launch(self, *, full_groups: bool = False) -> Launch | None:
        """What the next step is to compute; None where there is nothing.

        `full_groups`: while captions are running, images wait until there are `prefill_images` of them.
        """
        running = np.flatnonzero(self._launched < self._limits)
        sources = None
        if self._branches:
            requests, places, leads = zip(*self._branches, strict=True)
            joining, sources, self._branches = np.array(places), np.array(leads), []
        else:
            requests, joining = self._admit(self.prefill_images if full_groups and len(running) else 1)
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
        return Launch(requests, sources, slots, self._last[slots] + counters, counters, self._tickets[slots])

    def _admit(self, at_least: int) -> tuple[tuple[Request, ...], NDArray[np.int64]]:
        """The leads of the first images in line, at most `prefill_images`, and their slots; all branches get theirs.

        None while too few slots are free for a full prefill, or fewer than `at_least` images wait and there is room for
        one more. Waiting for slots keeps prefills large; so does waiting for requests where input is slow. A prefill
        that is not full joins once nothing runs, so that it waits no longer than a caption takes. The lowest slots are
        given first: steps then work on a dense range.
        """
        if not self._waiting or len(self._free) < self.prefill_images:  # nearly always
            return (), NOTHING
        ends = list(accumulate(map(len, islice(self._waiting, self.prefill_images))))
        ends = [end for end in ends if end <= self.num_slots]
        missing = (self.prefill_images - len(ends)) * (self._largest_group if at_least > 1 else 1)
        wanted = min((ends[-1] if ends else 0) + missing, self.num_slots)
        is_short = len(ends) < at_least and self.free_slots >= self._largest_group
        if len(self._free) < wanted or is_short:
            ends = []
        leads, places = [], []
        for lead, *branches in [self._waiting.popleft() for _ in ends]:
            slot = heapq.heappop(self._free)
            leads.append(lead)
            places.append(slot)
            self._branches += [(branch, heapq.heappop(self._free), slot) for branch in branches]
            self._num_waiting -= 1 + len(branches)
        return tuple(leads), np.array(places, np.int64)

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
