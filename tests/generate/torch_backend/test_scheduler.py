"""Slots: none leaks, no request is lost, groups join together. No tensors here."""

from collections import deque

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
