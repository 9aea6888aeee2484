"""The logits behind a caption that was begun: those of transformers, and nothing else in the engine changes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.engines import caption_all

from inputs.oracle import Pair, make_pair, random_requests
from recap_fast.generate.engine import GivesLogits
from recap_fast.records import Request


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"))


def begun(request: Request, caption: np.ndarray) -> Request:
    return dataclasses.replace(request, text_ids=np.concatenate([request.text_ids, caption]).astype(np.int32))


@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_they_are_those_of_transformers(pair: Pair, fixed_shapes: bool) -> None:
    requests = random_requests(pair, 3)
    engine = pair.open(stop_ids=[], num_slots=2, prefill_images=1, fixed_shapes=fixed_shapes)
    assert isinstance(engine, GivesLogits)
    done = caption_all(engine, requests)
    for request in requests:
        ids = done[request.id].token_ids
        for count in (0, 1, len(ids) - 1):
            logits = engine.logits(asked := begun(request, ids[:count]))
            with torch.inference_mode():
                expected = pair.model(**pair.inputs(request.pixels, asked.text_ids)).logits[0, -1].numpy()
            assert logits.dtype == np.float32
            assert np.abs(logits - expected).max() < 1e-4
            assert logits.argmax() == ids[count]
    again = caption_all(engine, requests)
    assert [again[r.id].token_ids.tolist() for r in requests] == [done[r.id].token_ids.tolist() for r in requests]


def test_captions_that_are_being_made_do_not_notice(pair: Pair) -> None:
    requests = random_requests(pair, 3)
    expected = {id_: c.token_ids.tolist() for id_, c in caption_all(pair.open(stop_ids=[]), requests).items()}
    engine, done = pair.open(stop_ids=[], num_slots=3, prefill_images=3), {}
    engine.submit(requests)
    while len(done) < 3:
        done |= {c.id: c.token_ids.tolist() for c in engine.step()}
        engine.logits(requests[0])
    assert done == expected


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "int8", "fp8"])
def test_other_precisions_would_choose_the_token_that_they_chose(precision: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, precision=precision)
    (request,) = random_requests(pair, 1)
    engine = pair.open(stop_ids=[])
    ids = caption_all(engine, [request])[request.id].token_ids
    logits = engine.logits(begun(request, ids[:2]))
    assert logits[ids[2]] > np.quantile(logits, 0.99)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu_they_are_computed_beside_the_graphs(precision: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, precision=precision)
    (request,) = random_requests(pair, 1)
    engine = pair.open(stop_ids=[], device="cuda")
    ids = caption_all(engine, [request])[request.id].token_ids
    for count in (0, 5, len(ids) - 1):
        logits = engine.logits(begun(request, ids[:count]))
        assert logits.max() - logits[ids[count]] < (1e-3 if precision == "float32" else 0.1)
    assert caption_all(engine, [request])[request.id].token_ids.tolist() == ids.tolist()


def test_a_text_that_no_slot_has_room_for_is_refused(pair: Pair) -> None:
    (request,) = random_requests(pair, 1)
    engine = pair.open(num_slots=1, prefill_images=1)
    with pytest.raises(ValueError, match=r"request 0: \d+ tokens after the image, a slot has room for 1 to \d+"):
        engine.logits(begun(request, np.zeros(2000, np.int32)))
