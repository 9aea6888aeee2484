"""Token ids told from a text, and the tie between two tokens beside transformers."""

import dataclasses
import string

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.engines import caption_all
from support.manual import ROOT

from inputs.oracle import make_pair, random_requests
from recap_fast.generate.engine import Sampling
from recap_fast.generate.tokenizer import load_tokenizer
from recap_fast.generate.torch_backend.sampling import uniforms
from recap_fast.replay.divergence import Ended, measure_tie, num_alike, tokens_of

TOKENIZER = load_tokenizer(ROOT / "demo/recap-tiny")
PLURAL = (" circle", "s")
"""Two spellings of ' circles', which is a token, too."""


def ids_of(*texts):
    return np.concatenate([TOKENIZER.encode(text, continues=True) for text in texts]).astype(np.int32)


@given(
    same=st.sampled_from(["A red", " A red", "Größe 😀", "In total there are two"]),
    row=st.text(string.ascii_letters + " .,ößé😀😁", max_size=20),
    now=st.text(string.ascii_letters + " .,ößé😀😁", max_size=20),
)
def test_the_ids_have_the_text_and_the_number_and_are_as_long_like_the_others_as_can_be(same, row, now):
    text = (same + row).rstrip()
    expected = TOKENIZER.encode(text, continues=True)
    beside = TOKENIZER.encode(same + now, continues=True)
    found = tokens_of(text.lstrip(), "stop", len(expected) + 1, beside, TOKENIZER)
    assert TOKENIZER.detokenize([found])[0] == text
    assert len(found) == len(expected)
    assert num_alike(found, beside) >= num_alike(expected, beside)


@pytest.mark.parametrize(
    ("row", "spelling"),
    [(ids_of(" two", " circles"), "one token"), (ids_of(" two", *PLURAL), "two tokens")],
    ids=["as the tokenizer has it", "as the model wrote it"],
)
def test_the_number_of_tokens_tells_apart_two_spellings_of_a_text(row, spelling):
    beside = ids_of(" two", PLURAL[0], ".")
    found = tokens_of("two circles", "stop", len(row) + 1, beside, TOKENIZER)
    assert found.tolist() == row.tolist(), spelling


def test_captions_that_are_cut_have_no_next_token_that_anyone_knows():
    ids = np.array([7, 8], np.int32)
    assert Ended(ids, "stop").next_token(1, 99) == 8
    assert Ended(ids, "stop").next_token(2, 99) == 99
    assert Ended(ids, "length").next_token(2, 99) is None
    assert Ended(ids, "loop").next_token(2, 99) is None


def test_how_far_captions_are_alike():
    first, second = np.array([1, 2, 3]), np.array([1, 2, 4])
    assert num_alike(first, second) == 2
    assert num_alike(first, first[:1]) == 1
    assert num_alike(first, first) == 3


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("place", [0, 3, 15])
def test_the_margin_and_the_probabilities_are_those_of_transformers(pair, place):
    (request,) = random_requests(pair, 1)
    engine = pair.open(stop_ids=[])
    now = caption_all(engine, [request])[request.id].token_ids
    row = now.copy()
    row[place] = (now[place] + 5) % 250
    ends = Ended(row, "length"), Ended(now, "length")
    tie = measure_tie(engine, request, *ends, pair.spec, pair.tokenizer, Sampling())
    assert tie is not None
    assert (tie.row.token, tie.now.token, tie.precision) == (row[place], now[place], "float32")
    with torch.inference_mode():
        inputs = pair.inputs(request.pixels, np.concatenate([request.text_ids, now[:place]]))
        logits = pair.model(**inputs).logits[0, -1].double()
    assert tie.margin == pytest.approx(float(logits[now[place]] - logits[row[place]]), abs=1e-4)
    assert tie.margin > 0
    for choice in (tie.row, tie.now):
        assert choice.probability == pytest.approx(float(logits.softmax(-1)[choice.token]), rel=1e-4)
        assert choice.drawn_by is None
    larger = max(abs(tie.row.logit), abs(tie.now.logit))
    assert tie.steps == pytest.approx(tie.margin / float(np.spacing(np.float32(larger))))


def test_of_a_sampled_caption_the_number_lies_among_those_that_draw_its_token(pair):
    (request,) = random_requests(pair, 1)
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=3)
    engine = pair.open(stop_ids=[], sampling=sampling)
    now = caption_all(engine, [request])[request.id].token_ids
    row = now.copy()
    row[4] = (now[4] + 5) % 250
    ends = Ended(row, "length"), Ended(now, "length")
    tie = measure_tie(engine, request, *ends, pair.spec, pair.tokenizer, sampling)
    assert tie is not None
    assert tie.draw == float(uniforms(3, [request.noise_key], np.array([4]))[0])
    assert tie.now.drawn_by is not None
    start, end = tie.now.drawn_by
    assert start - 1e-5 <= tie.draw <= end + 1e-5
    assert tie.now.probability == end - start
    others = tie.row.drawn_by
    assert others is None or others[1] <= start or end <= others[0]


def test_where_a_caption_was_cut_or_both_go_on_alike_there_is_no_tie(pair):
    (request,) = random_requests(pair, 1)
    engine = pair.open(stop_ids=[])
    request = dataclasses.replace(request, max_new_tokens=6)
    now = caption_all(engine, [request])[request.id].token_ids
    for row in (Ended(now[:3], "loop"), Ended(now, "length"), Ended(now, "stop")):
        given = engine, request, row, Ended(now, row.finish_reason), pair.spec, pair.tokenizer, Sampling()
        assert measure_tie(*given) is None
