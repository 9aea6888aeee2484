"""suite/stream.py on the scheduler alone, without a model: full once each slot was given, and even from then on."""

import numpy as np
import pytest

from inputs.workload import varied_lengths
from recap_fast.generate.engine import Statistics
from recap_fast.generate.spec import Sizes, SlotShape
from recap_fast.generate.torch_backend.scheduler import Scheduler
from suite import stream

SIZES = Sizes(num_slots=448, prefill_images=8)
FILLING = 56
"""Steps, of 8 images, that take all slots."""


class FakeEngine:
    """Launches and collects one step late, as on a GPU; every token is 0."""

    def __init__(self, captions=1):
        shape = SlotShape(num_prefix=5, num_image_tokens=576, max_text_tokens=24, max_new_tokens=128)
        self._scheduler = Scheduler(SIZES, shape, (), loop_stop=False, captions_per_image=captions)
        self._launched = None
        self.statistics, self.num_steps, self.joined = Statistics(), 0, []

    @property
    def free_slots(self):
        return self._scheduler.free_slots

    def submit(self, requests):
        self._scheduler.submit(requests)

    def step(self, *, more):
        launch, before = self._scheduler.launch(full_groups=more), self._launched
        self._launched, self.num_steps = launch, self.num_steps + 1
        self.joined.append(len(launch.requests))
        if before is None:
            return []
        if before.requests:
            self.statistics.mixed_steps += 1
        else:
            self.statistics.decode_steps += 1
        self.statistics.images += before.num_images
        self.statistics.decode_rows += len(before.slots) - len(before.requests)
        return self._scheduler.collect(before, np.zeros(len(before.slots), np.int32))


@pytest.fixture
def engine():
    return FakeEngine()


def start(engine, lengths):
    return stream.Stream(engine, lengths, SIZES.prefill_images, np.zeros((1, 1)), np.arange(22))


@pytest.mark.parametrize("tokens", [65, 128])
def test_once_full_an_engine_is_as_if_it_had_run_for_long(engine, tokens):
    running, turnover = start(engine, [tokens]), tokens + 1
    for _ in range(FILLING):
        running.advance()
    assert sum(engine.joined) == SIZES.num_slots
    ended = np.array([running.advance() for _ in range(4 * turnover)])
    images = min(SIZES.prefill_images, SIZES.num_slots / turnover)
    for first in range(0, len(ended), turnover // 3):  # each third of a turnover alike
        part = slice(first, first + turnover // 3)
        assert ended[part].sum() == pytest.approx(images * len(ended[part]), abs=SIZES.prefill_images + 1)
        mixed = np.count_nonzero(engine.joined[FILLING:][part])
        assert mixed == pytest.approx(images / SIZES.prefill_images * len(ended[part]), abs=2)


def test_captions_of_many_lengths_are_even_too(engine):
    lengths = varied_lengths(1000)
    running = start(engine, lengths)
    counted = running.window(0.0)
    for _ in range(300):  # until nothing is left of the start
        running.advance()
    before, images = engine.statistics.decode_rows, sum(running.advance() for _ in range(300))
    steps = counted.done.mixed_steps + counted.done.decode_steps
    assert counted.images / steps == pytest.approx(images / 300, rel=0.03)
    assert counted.done.decode_rows / steps == pytest.approx((engine.statistics.decode_rows - before) / 300, rel=0.03)


def test_a_window_begins_when_all_slots_are_taken_and_lasts_a_turnover(engine):
    counted = start(engine, [65]).window(0.0)
    assert engine.num_steps == pytest.approx(FILLING + 1 + 66, abs=2)
    assert SIZES.num_slots <= counted.images <= SIZES.num_slots + 2 * SIZES.prefill_images
    assert counted.done.mixed_steps + counted.done.decode_steps == pytest.approx(66, abs=2)
    assert counted.done.decode_rows == pytest.approx(SIZES.num_slots * 64, rel=0.03)


def test_images_of_several_captions_are_even_too():
    """112 images of 65 steps each. As many steps have the texts of three more captions as have images."""
    engine = FakeEngine(captions=4)
    running = stream.Stream(engine, [64], SIZES.prefill_images, np.zeros((1, 1)), np.arange(22), captions=4)
    counted = running.window(0.0)
    steps = counted.done.mixed_steps + counted.done.decode_steps
    assert counted.images / steps == pytest.approx(112 / 65, rel=0.05)
    assert counted.done.mixed_steps / steps == pytest.approx(2 * 112 / 65 / 8, rel=0.1)


def test_captions_of_an_image_are_handed_over_together(engine, monkeypatch):
    """With three an image, one of 448 slots stays free; each image has three requests of its pixels and its length."""
    given, submit = [], engine.submit
    monkeypatch.setattr(engine, "submit", lambda requests: (given.append(requests), submit(requests)))
    lengths, pixels = [20, 30], np.zeros((5, 1))
    running = stream.Stream(engine, lengths, SIZES.prefill_images, pixels, np.arange(22), captions=3)
    counted = running.window(0.0)
    assert len(given[0]) == 447
    assert {len(requests) % 3 for requests in given} == {0}
    requests = [request for requests in given for request in requests]
    for lead, *others in zip(requests[::3], requests[1::3], requests[2::3], strict=True):
        assert lead.same_image_as is None
        assert {other.same_image_as for other in others} == {lead.id}
        assert {other.max_new_tokens for other in others} == {lead.max_new_tokens}
        assert all(other.pixels.base is lead.pixels.base is pixels for other in others)
    assert [request.id for request in requests] == list(range(len(requests)))
    assert {request.max_new_tokens for request in requests[-300:]} == set(lengths)
    assert counted.images >= SIZES.prefill_images // 2 * 26  # all that ever run at once
