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


def request(number: int, limit: int = 5, *, text: int = 1) -> Request:
    return Request(number, np.zeros((3, 2, 2), np.uint8), np.zeros(text, np.int32), limit)


def make(num_slots: int, prefill: int) -> Scheduler:
    shape = SlotShape(num_prefix=3, num_image_tokens=TEXT_START - 3, max_text_tokens=4, max_new_tokens=40)
    return Scheduler(Sizes(num_slots=num_slots, prefill_images=prefill), shape, [STOP], loop_stop=False)


class Device:
    """Says of each request its number at every step, and the stop token as its last where it is to stop."""

    def __init__(self, lengths: list[int], stops: list[bool]):
        self._lengths, self._stops = lengths, stops
        self._seated: dict[int, int] = {}

    def run(self, launch: Launch) -> np.ndarray:
        n = len(launch.requests)
        for r, slot in zip(launch.requests, launch.slots[:n].tolist(), strict=True):
            self._seated[slot] = r.id
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
)
def test_every_request_comes_back_once(
    num_slots: int, prefill: int, lag: int, lengths: list[int], stops: list[bool]
) -> None:
    scheduler, device = make(num_slots, prefill), Device(lengths, stops)
    # A request that stops early could have gone on: with a lag, its next step is on its way by then.
    limits = [length + 5 * stops[i] if length > 1 else length for i, length in enumerate(lengths)]
    waiting = deque(request(i, limit, text=1 + i % 3) for i, limit in enumerate(limits))
    on_their_way: deque[tuple[Launch, np.ndarray]] = deque()
    done: list[Completion] = []
    for _ in range(2000):
        scheduler.submit([waiting.popleft() for _ in range(min(scheduler.free_slots, len(waiting)))])
        launch = scheduler.launch()
        if launch is not None:
            assert len(launch.requests) <= scheduler.prefill_images
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
