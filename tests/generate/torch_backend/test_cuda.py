"""What test_engine.py does not ask of a GPU as well: pixels that lie there, the same captions again, and its memory."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.engines import caption_all

from inputs.oracle import Pair, make_pair, random_requests
from recap_fast.errors import ConfigError
from recap_fast.generate.engine import Sampling

pytestmark = pytest.mark.needs_cuda


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("cuda"))


def test_pixels_may_lie_on_the_device(pair: Pair) -> None:
    requests = random_requests(pair, 8)
    expected = {r.id: pair.reference(r, []) for r in requests}
    on_device = [dataclasses.replace(r, pixels=torch.from_numpy(np.asarray(r.pixels)).cuda()) for r in requests]
    done = caption_all(pair.open(device="cuda", stop_ids=[], num_slots=4, prefill_images=2), on_device)
    assert {i: c.token_ids.tolist() for i, c in done.items()} == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_run_twice_gives_the_same_captions(precision: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, precision=precision)
    requests = random_requests(pair, 24, fields=True)
    runs = [caption_all(pair.open(device="cuda", stop_ids=[], num_slots=6, prefill_images=3), requests) for _ in "ab"]
    assert all(np.array_equal(runs[0][i].token_ids, runs[1][i].token_ids) for i in runs[0])


def test_sampled_captions_are_those_of_the_cpu(pair: Pair) -> None:
    requests, sampling = random_requests(pair, 8, fields=True), Sampling(temperature=1.0, top_p=0.9, seed=3)
    options = {"stop_ids": [], "num_slots": 4, "prefill_images": 2, "sampling": sampling}
    cpu, gpu = (caption_all(pair.open(device=device, **options), requests) for device in ("cpu", "cuda"))
    equal = sum(np.array_equal(cpu[i].token_ids, gpu[i].token_ids) for i in cpu)
    assert equal >= 7, "a number at the border of two tokens may fall on either side"


def test_an_engine_that_does_not_fit_says_by_how_much(pair: Pair) -> None:
    with pytest.raises(ConfigError, match=r"GiB are free, .* GiB too few\. Lower --num-slots"):
        pair.open(device="cuda", num_slots=10**8)
