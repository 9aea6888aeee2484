"""Slots: none leaks, no request is lost, groups join together. No tensors here."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.generate.torch_backend.scheduler import Scheduler
from recap_fast.records import Request

STOP = 99


def request(number: int, limit: int = 5) -> Request:
    return Request(number, np.zeros((3, 2, 2), np.uint8), np.zeros(1, np.int32), limit)


def make(num_slots: int, prefill: int, *, loop_stop: bool = False) -> Scheduler:
    return Scheduler(num_slots, prefill, 40, [STOP], loop_stop=loop_stop)


@given(
    num_slots=st.integers(1, 9),
    prefill=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 30), max_size=40),
    stops=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_every_request_comes_back_once(num_slots: int, prefill: int, lengths: list[int], stops: list[bool]) -> None:
    scheduler = make(num_slots, prefill)
    waiting = [request(i, length) for i, length in enumerate(lengths)]
    said: dict[int, int] = {}
    seated: dict[int, int] = {}
    done = []
    for _ in range(2000):
        room = min(scheduler.free_slots, len(waiting))
        scheduler.submit([waiting.pop(0) for _ in range(room)])
        running = scheduler.running
        admission = scheduler.admit()
        if admission is not None:
            assert len(admission.requests) <= scheduler.prefill_images
            for r, slot in zip(admission.requests, admission.slots.tolist(), strict=True):
                assert slot not in seated
                seated[slot] = r.id
        slots = running if admission is None else np.concatenate([admission.slots, running])
        if not len(slots) and not waiting:
            break
        tokens = []
        for slot in slots.tolist():
            number = seated[slot]
            said[number] = said.get(number, 0) + 1
            early = stops[number] and said[number] == lengths[number] and lengths[number] > 1
            tokens.append(STOP if early else number % 50)
        for completion in scheduler.collect(slots, np.array(tokens, np.int32)):
            done.append(completion)
            seated = {slot: number for slot, number in seated.items() if number != completion.id}
    assert sorted(c.id for c in done) == list(range(len(lengths)))
    assert scheduler.free_slots == num_slots
    for c in done:
        stopped = stops[c.id] and lengths[c.id] > 1
        assert c.num_tokens == lengths[c.id]
        assert c.finish_reason == ("stop" if stopped else "length")
        assert c.token_ids.tolist() == [c.id % 50] * (lengths[c.id] - stopped)


def test_groups_wait_for_as_many_slots() -> None:
    scheduler = make(4, 3)
    scheduler.submit([request(i, 1 + i) for i in range(4)])
    first = scheduler.admit()
    assert first is not None
    assert first.slots.tolist() == [0, 1, 2]
    assert scheduler.admit() is None, "one slot is free, a group takes three"
    scheduler.collect(first.slots, np.zeros(3, np.int32))  # request 0 ends
    assert scheduler.admit() is None
    scheduler.collect(scheduler.running, np.zeros(2, np.int32))  # request 1 ends
    second = scheduler.admit()
    assert second is not None
    assert [r.id for r in second.requests] == [3]
    assert second.slots.tolist() == [0], "the lowest free slot"


def test_more_requests_than_slots_are_refused() -> None:
    scheduler = make(2, 2)
    with pytest.raises(ValueError, match="3 requests given, 2 slots are free"):
        scheduler.submit([request(i) for i in range(3)])


def test_prefill_groups_are_no_larger_than_the_slots() -> None:
    assert make(2, 8).prefill_images == 2


def test_loops_end_a_caption_before_its_limit() -> None:
    scheduler = make(1, 1, loop_stop=True)
    scheduler.submit([request(0, 40)])
    admission = scheduler.admit()
    assert admission is not None
    for token in [1, 2, 3, *[7] * 30]:
        done = scheduler.collect(admission.slots, np.array([token], np.int32))
        if done:
            break
    (completion,) = done
    assert completion.finish_reason == "loop"
    assert completion.token_ids.tolist() == [1, 2, 3, 7]
    assert completion.num_tokens == 20
