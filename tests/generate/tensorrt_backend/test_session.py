"""Whole captions in, completions out: stop ids and loops are cut as the torch engine cuts them while it generates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import share

from recap_fast.generate.spec import Sizes, SlotShape
from recap_fast.generate.tensorrt_backend.session import Answer, complete, request_seed
from recap_fast.generate.torch_backend.scheduler import Scheduler
from recap_fast.records import Request

STOPS = (7, 9)
LIMIT = 60
SHAPE = SlotShape(num_prefix=0, num_image_tokens=0, max_text_tokens=1, max_new_tokens=LIMIT)


def scheduled(rows, *, loop_stop):
    """What the torch engine's scheduler makes of models that would say these rows, one token a step."""
    done = {}
    for i, row in enumerate(rows):
        scheduler = Scheduler(Sizes(num_slots=1, prefill_images=1), SHAPE, STOPS, loop_stop=loop_stop)
        scheduler.submit([Request(i, np.zeros((3, 1, 1), np.uint8), np.zeros(1, np.int32), len(row))])
        tokens = iter(row)
        while i not in done:
            launch = scheduler.launch()
            done |= {c.id: c for c in scheduler.collect(launch, np.array([next(tokens)], np.int32))}
    return done


looping = st.tuples(
    st.lists(st.integers(0, 9), max_size=8), st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(1, 40)
).map(lambda t: (t[0] + t[1] * t[2])[:LIMIT])


@share(0.6)
@given(rows=st.lists(looping, min_size=1, max_size=5), loop_stop=st.booleans())
def test_captions_end_where_the_torch_engine_ends_them(rows, loop_stop):
    answers = [Answer(i, row) for i, row in enumerate(rows)]
    truth = scheduled(rows, loop_stop=loop_stop)
    for completion in complete(answers, STOPS, loop_stop=loop_stop):
        wanted = truth[completion.id]
        assert completion.token_ids.tolist() == wanted.token_ids.tolist()
        assert completion.finish_reason == wanted.finish_reason
        assert completion.num_tokens >= wanted.num_tokens
        if wanted.finish_reason != "loop":
            assert completion.num_tokens == wanted.num_tokens


@pytest.mark.parametrize(
    ("answer", "reason", "tokens", "counted"),
    [
        (Answer(3, [1, 2, 3] * 15), "loop", [1, 2, 3], 45),  # all that were generated
        (Answer(3, [1, 2], has_stopped=True), "stop", [1, 2], 3),  # the library took the stop id off
        (Answer(3, [], error="out of luck"), "error", [], 0),
    ],
)
def test_what_is_counted(answer, reason, tokens, counted):
    (done,) = complete([answer], STOPS, loop_stop=True)
    assert (done.id, done.finish_reason, done.token_ids.tolist(), done.num_tokens) == (3, reason, tokens, counted)
    assert done.error == answer.error


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_seeds_fit_and_differ(seed):
    seeds = {request_seed(seed, key) for key in (0, 1, 2**64 - 1)}
    assert len(seeds) == 3
    assert all(0 <= s < 2**63 for s in seeds)
