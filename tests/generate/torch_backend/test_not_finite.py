"""A number that is not finite never becomes a caption: the engine stops, whatever computes it and wherever it was."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.engines import caption_all
from support.weight_files import change_weights, with_nan

from inputs.oracle import make_pair, random_requests
from recap_fast.errors import EngineError
from recap_fast.generate.engine import Sampling
from recap_fast.generate.spec import WEIGHTS_FILE
from recap_fast.generate.torch_backend.sampling import NOT_FINITE, choose

SAMPLED = Sampling(temperature=1.0, top_k=5, top_p=0.9)
BAD = (torch.nan, torch.inf, -torch.inf)


@pytest.mark.parametrize("fixed_shapes", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "fp8", "int8"])
def test_one_nan_in_any_weight_stops_the_engine(precision, fixed_shapes, tmp_path):
    pair = make_pair(tmp_path, precision=precision)
    requests = random_requests(pair, 4, max_new_tokens=8)
    whole = load_file(pair.folder / WEIGHTS_FILE)
    rng = np.random.default_rng(1)
    for name, tensor in whole.items():
        place = int(rng.integers(tensor.numel()))
        if name == "text.embed.weight":  # in a row that is read
            place = int(requests[0].text_ids[1]) * tensor.shape[1] + place % tensor.shape[1]
        if tensor.dtype == torch.int8:
            continue
        change_weights(pair.folder, **{name: with_nan(tensor, place)})
        engine = pair.open(num_slots=4, fixed_shapes=fixed_shapes, verify=False)
        with pytest.raises(EngineError, match=r"logits are not finite in \d of \d captions, the first"):
            caption_all(engine, requests)
        change_weights(pair.folder, **{name: tensor})


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED])
@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_the_slot_and_the_token_are_named(tmp_path, sampling, fixed_shapes):
    """The row of one token is damaged: captions are right up to it."""
    pair = make_pair(tmp_path)
    requests = random_requests(pair, 3, max_new_tokens=24)
    engine = pair.open(num_slots=3, stop_ids=[], sampling=sampling, fixed_shapes=fixed_shapes)
    caption = caption_all(engine, requests[:1])[0].token_ids.tolist()
    known = {*pair.prompts.prefix_ids.tolist(), *pair.prompts.text_ids({})[0].tolist()}
    place = next(i for i, token in enumerate(caption) if token not in known and token not in caption[:i])
    embedding = load_file(pair.folder / WEIGHTS_FILE)["text.embed.weight"]
    change_weights(pair.folder, **{"text.embed.weight": with_nan(embedding, caption[place] * embedding.shape[1])})
    damaged = pair.open(num_slots=3, stop_ids=[], sampling=sampling, fixed_shapes=fixed_shapes, verify=False)
    with pytest.raises(EngineError, match=f"in 1 of 1 captions, the first of them in slot 0, at token {place + 2}"):
        caption_all(damaged, requests[:1])


@given(
    rows=st.integers(1, 5),
    places=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 39)), min_size=1, max_size=3),
    value=st.sampled_from(BAD),
    sampling=st.sampled_from([Sampling(), SAMPLED, Sampling(temperature=1e-30)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_rows_with_such_a_number_have_no_token_and_others_theirs(rows, places, value, sampling, dtype):
    logits = torch.from_numpy(np.random.default_rng(rows).normal(size=(rows, 40))).to(dtype)
    noise = torch.linspace(0.1, 0.9, rows)
    expected = choose(logits, sampling, noise)
    assert (expected >= 0).all()
    for row, column in places:
        if row < rows:
            logits[row, column] = value
            expected[row] = NOT_FINITE
    assert choose(logits, sampling, noise).tolist() == expected.tolist()


def test_infinities_of_both_signs_do_not_cancel():
    logits = torch.zeros(2, 9)
    logits[0, 1], logits[0, 2] = torch.inf, -torch.inf
    assert choose(logits, Sampling(), None).tolist() == [NOT_FINITE, 0]
    assert choose(logits, SAMPLED, torch.tensor([0.1, 0.0])).tolist()[0] == NOT_FINITE


def test_large_logits_are_no_alarm():
    logits = torch.full((2, 1000), 60_000.0, dtype=torch.float16)  # their sum is not finite in float16
    logits[:, 7] = 65_000.0
    assert choose(logits, Sampling(), None).tolist() == [7, 7]
    assert choose(logits, SAMPLED, torch.tensor([0.1, 0.9])).tolist() == [7, 7]


def test_an_engine_that_stopped_so_can_be_copied_anew(tmp_path):
    pair = make_pair(tmp_path)
    requests = random_requests(pair, 2, max_new_tokens=4)
    expected = caption_all(pair.open(), requests)
    shutil.copy(pair.folder / WEIGHTS_FILE, tmp_path / "kept")
    change_weights(pair.folder, text__norm__weight=torch.full((64,), torch.nan))
    with pytest.raises(EngineError):
        caption_all(pair.open(verify=False), requests)
    shutil.copy(tmp_path / "kept", pair.folder / WEIGHTS_FILE)
    again = caption_all(pair.open(), requests)
    assert {i: c.token_ids.tolist() for i, c in again.items()} == {i: c.token_ids.tolist() for i, c in expected.items()}
