"""Slots: none leaks, no request is lost, groups join together. No tensors here."""

from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Self

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.generate.spec import Sizes, SlotShape
from recap_fast.generate.torch_backend.scheduler import Launch, Scheduler
from recap_fast.records import Completion, Request

STOP = 99
TEXT_START = 10


def request(number: int, limit: int = 5, *, text: int = 1, lead: int | None = None) -> Request:
    same = None if lead == number else lead
    return Request(number, np.zeros((3, 2, 2), np.uint8), np.zeros(text, np.int32), limit, same_image_as=same)


def group(lead: int, size: int, limit: int = 5) -> list[Request]:
    """Requests of one image, their numbers counting on from the lead's."""
    return [request(lead + i, limit, lead=lead) for i in range(size)]


def make(num_slots: int, prefill: int, captions: int = 1) -> Scheduler:
    shape = SlotShape(num_prefix=3, num_image_tokens=TEXT_START - 3, max_text_tokens=4, max_new_tokens=40)
    sizes = Sizes(num_slots=num_slots, prefill_images=prefill)
    return Scheduler(sizes, shape, [STOP], loop_stop=False, captions_per_image=captions)


class Device:
    """Says of each request its number at every step, and the stop token as its last where it is to stop.

    It knows which image each slot holds, so that a branch with another image than its own is found.
    """

    def __init__(self, lengths: list[int], stops: list[bool]):
        self._lengths, self._stops = lengths, stops
        self._seated: dict[int, int] = {}
        self._images: dict[int, int] = {}

    def run(self, launch: Launch) -> np.ndarray:
        n = len(launch.requests)
        for r, slot in zip(launch.requests, launch.slots[:n].tolist(), strict=True):
            self._seated[slot] = r.id
            self._images[slot] = r.image_id
        for r, source in zip(launch.requests, () if launch.sources is None else launch.sources.tolist(), strict=False):
            assert self._images[source] == r.image_id
        tokens = []
        for slot, counter, position in zip(launch.slots, launch.counters, launch.positions, strict=True):
            number = self._seated[int(slot)]
            assert position == TEXT_START + number % 3 + counter, "the row that the token is read from"
            stops_now = self._stops[number] and counter == self._lengths[number] - 1 > 0
            tokens.append(STOP if stops_now else number % 50)
        return np.array(tokens, np.int32)


@given(
    num_slots=st.integers(1, 9),
    prefill=st.integers(1, 5),
    lag=st.integers(0, 1),
    lengths=st.lists(st.integers(1, 30), max_size=40),
    stops=st.lists(st.booleans(), min_size=40, max_size=40),
    captions=st.integers(1, 6),
    together=st.lists(st.integers(1, 6), min_size=40, max_size=40),
    full_groups=st.booleans(),
)
def test_every_request_comes_back_once(
    num_slots: int,
    prefill: int,
    lag: int,
    lengths: list[int],
    stops: list[bool],
    captions: int,
    together: list[int],
    full_groups: bool,
) -> None:
    scheduler, device = make(num_slots, prefill, captions), Device(lengths, stops)
    most = Sizes(num_slots=num_slots, prefill_images=prefill).most_branches(captions)
    leads = [lead for lead, size in zip(accumulate(together, initial=0), together, strict=False) for _ in range(size)]
    # A request that stops early could have gone on: with a lag, its next step is on its way by then.
    limits = [length + 5 * stops[i] if length > 1 else length for i, length in enumerate(lengths)]
    waiting = deque(request(i, limit, text=1 + i % 3, lead=leads[i]) for i, limit in enumerate(limits))
    on_their_way: deque[tuple[Launch, np.ndarray]] = deque()
    done: list[Completion] = []
    for _ in range(2000):
        scheduler.submit([waiting.popleft() for _ in range(min(scheduler.free_slots, len(waiting)))])
        launch = scheduler.launch(full_groups=full_groups and bool(waiting))
        if launch is not None:
            assert launch.num_images <= scheduler.prefill_images
            assert len(launch.requests) <= max(prefill, most)
            assert len(set(launch.slots.tolist())) == len(launch.slots)
            on_their_way.append((launch, device.run(launch)))
        if not on_their_way:
            break
        if launch is None or len(on_their_way) > lag:
            done += scheduler.collect(*on_their_way.popleft())
    assert sorted(c.id for c in done) == list(range(len(lengths)))
    assert scheduler.free_slots == num_slots
    assert scheduler.is_empty
    for c in done:
        stopped = stops[c.id] and lengths[c.id] > 1
        assert c.num_tokens == lengths[c.id]
        assert c.finish_reason == ("stop" if stopped else "length")
        assert c.token_ids.tolist() == [c.id % 50] * (lengths[c.id] - stopped)


def step(scheduler: Scheduler, token: int = 0) -> tuple[Launch, list[Completion]]:
    launch = scheduler.launch()
    return launch, scheduler.collect(launch, np.full(len(launch.slots), token, np.int32))


@dataclass
class Arrivals:
    """Requests that arrive one by one, and what a scheduler did with them."""

    lengths: list[int]
    """Tokens of each caption."""
    gaps: list[int]
    """Launches between each request and the one before it; it may be later where no slot is free."""
    lag: int = 1
    arrived: dict[int, int] = field(default_factory=dict)
    """Before which launch, by request."""
    joined: dict[int, int] = field(default_factory=dict)
    launches: list[Launch | None] = field(default_factory=list)

    def run(self, scheduler: Scheduler, *, full_groups: bool = True) -> Self:
        """Until all captions are there. With `full_groups` groups are full ones while requests are on their way."""
        due = deque(enumerate(accumulate(self.gaps)))
        on_their_way: deque[Launch] = deque()
        done: list[Completion] = []
        while len(done) < len(self.lengths):
            now = len(self.launches)
            assert now <= sum(self.gaps) + sum(self.lengths) + 2 * len(self.lengths), "somebody waits for ever"
            while due and due[0][1] <= now and scheduler.free_slots:
                number, _ = due.popleft()
                scheduler.submit([request(number, self.lengths[number])])
                self.arrived[number] = now
            launch = scheduler.launch(full_groups=full_groups and bool(due))
            self.launches.append(launch)
            if launch is not None:
                self.joined.update({r.id: now for r in launch.requests})
                on_their_way.append(launch)
            if on_their_way and (launch is None or len(on_their_way) > self.lag):
                oldest = on_their_way.popleft()
                done += scheduler.collect(oldest, np.zeros(len(oldest.slots), np.int32))
        return self

    def groups(self) -> list[int]:
        """Sizes of the prefills, in order."""
        return [len(launch.requests) for launch in self.launches if launch and launch.requests]


REQUESTS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 12)), min_size=1, max_size=40)


@given(num_slots=st.integers(1, 9), prefill=st.integers(1, 5), lag=st.integers(0, 1), requests=REQUESTS)
def test_waiting_for_a_group_ends(num_slots: int, prefill: int, lag: int, requests: list[tuple[int, int]]) -> None:
    """Nobody joins while a group is incomplete, so it waits for the captions that run by then, and no longer."""
    lengths, gaps = map(list, zip(*requests, strict=True))
    seen = Arrivals(lengths, gaps, lag).run(make(num_slots, prefill))
    assert seen.joined.keys() == set(range(len(lengths)))
    for number, joined in seen.joined.items():
        assert joined - seen.arrived[number] <= max(lengths[:number], default=0) + lag


@given(num_slots=st.integers(1, 9), prefill=st.integers(1, 5), lag=st.integers(0, 1), requests=REQUESTS)
def test_no_group_waits_where_there_is_always_another_request(
    num_slots: int, prefill: int, lag: int, requests: list[tuple[int, int]]
) -> None:
    lengths = [length for length, _ in requests]
    waiting, not_waiting = (
        Arrivals(lengths, [0] * len(lengths), lag).run(make(num_slots, prefill), full_groups=full_groups)
        for full_groups in (True, False)
    )
    assert waiting.joined == not_waiting.joined
    for ours, theirs in zip(waiting.launches, not_waiting.launches, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert (ours.slots.tolist(), ours.counters.tolist()) == (theirs.slots.tolist(), theirs.counters.tolist())


def test_a_slow_input_is_prefilled_in_full_groups() -> None:
    arrivals = [30] * 400, [1] * 400
    one_by_one = Arrivals(*arrivals).run(make(64, 4), full_groups=False)
    in_groups = Arrivals(*arrivals).run(make(64, 4))
    assert one_by_one.groups() == [1] * 400
    assert in_groups.groups() == [1] + [4] * 99 + [3]  # at first nothing runs; behind the last nothing comes
    assert len(in_groups.launches) <= len(one_by_one.launches) + 4


def test_groups_wait_for_as_many_slots() -> None:
    scheduler = make(4, 3)
    scheduler.submit([request(i, 1 + i) for i in range(4)])
    first, done = step(scheduler)
    assert first.slots.tolist() == [0, 1, 2]
    assert [c.id for c in done] == [0]
    second, _ = step(scheduler)  # two slots are free, a group takes three; request 1 ends
    assert second.requests == ()
    third, _ = step(scheduler)
    assert [r.id for r in third.requests] == [3]
    assert third.slots[0] == 0, "the lowest free slot"


def test_a_caption_at_its_limit_is_not_launched_again() -> None:
    scheduler = make(1, 1)
    scheduler.submit([request(0, 2)])
    first, second = scheduler.launch(), scheduler.launch()
    assert scheduler.launch() is None
    assert scheduler.collect(first, np.zeros(1, np.int32)) == []
    (completion,) = scheduler.collect(second, np.zeros(1, np.int32))
    assert completion.num_tokens == 2


def test_prefill_groups_are_no_larger_than_the_slots() -> None:
    assert make(2, 8).prefill_images == 2


def test_branches_join_behind_their_leads_with_the_images_of_their_slots() -> None:
    scheduler = make(8, 2, captions=3)
    scheduler.submit([*group(0, 3), *group(3, 1), *group(4, 2)])
    images, _ = step(scheduler)
    assert ([r.id for r in images.requests], images.slots.tolist(), images.sources) == ([0, 3], [0, 3], None)
    branches, _ = step(scheduler)
    assert [r.id for r in branches.requests] == [1, 2]
    assert branches.slots.tolist() == [1, 2, 0, 3], "the branches, then what runs"
    assert branches.sources is not None
    assert branches.sources.tolist() == [0, 0]
    images, _ = step(scheduler)  # no image joins as long as there are branches
    assert ([r.id for r in images.requests], images.num_images) == ([4], 1)
    assert scheduler.free_slots == 2


def test_a_lead_that_has_ended_still_has_the_image() -> None:
    scheduler = make(2, 1, captions=2)
    scheduler.submit(group(0, 2, limit=1))
    _, done = step(scheduler)
    assert [c.id for c in done] == [0]
    scheduler.submit([request(2)])
    branches, done = step(scheduler)
    assert branches.sources is not None
    assert ([r.id for r in branches.requests], branches.sources.tolist()) == ([1], [0])
    images, _ = step(scheduler)
    assert ([r.id for r in images.requests], images.slots.tolist()) == ([2], [0])


def test_more_requests_than_share_an_image_have_a_lead_in_each_part() -> None:
    scheduler = make(16, 8, captions=2)
    scheduler.submit(group(0, 5))
    images, _ = step(scheduler)
    assert [r.id for r in images.requests] == [0, 2, 4]
    branches, _ = step(scheduler)
    assert [r.id for r in branches.requests] == [1, 3]


def test_requests_that_come_later_share_an_image_while_it_waits() -> None:
    scheduler = make(8, 2, captions=4)
    first, second, third, fourth = group(0, 4)
    scheduler.submit([first])
    scheduler.submit([second])
    images, _ = step(scheduler)
    scheduler.submit([third])  # its lead has joined: it is a lead of its own
    scheduler.submit([fourth])
    branches, _ = step(scheduler)
    again, _ = step(scheduler)
    assert [[r.id for r in launch.requests] for launch in (images, branches, again)] == [[0], [1], [2]]
    assert [r.id for r in step(scheduler)[0].requests] == [3]


def test_images_wait_until_a_full_prefill_has_room_for_all_captions() -> None:
    scheduler = make(6, 2, captions=3)
    scheduler.submit([*group(0, 2, limit=2), *group(2, 3, limit=9)])
    assert [r.id for r in step(scheduler)[0].requests] == [0, 2]
    step(scheduler)
    scheduler.submit(group(5, 2))
    step(scheduler)  # request 1 ends: three slots are free, one more image might come
    assert scheduler.free_slots == 1
    assert [r.id for r in step(scheduler)[0].requests] == [5]
