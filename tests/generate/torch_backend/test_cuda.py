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
from recap_fast.records import Request

pytestmark = pytest.mark.needs_cuda


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("cuda"))


def of_one_image(requests: list[Request], size: int) -> list[Request]:
    """The same requests, so many of each image."""
    leads = [requests[r.id // size * size] for r in requests]
    return [
        r if r is lead else dataclasses.replace(r, pixels=lead.pixels, same_image_as=lead.id)
        for r, lead in zip(requests, leads, strict=True)
    ]


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


@pytest.mark.parametrize(("num_slots", "prefill_images"), [(3, 1), (4, 3), (9, 2), (32, 8)])
def test_captions_of_one_image_are_those_of_each_prompt_alone(pair: Pair, num_slots: int, prefill_images: int) -> None:
    requests = of_one_image(random_requests(pair, 20, fields=True), 4)
    expected = {r.id: pair.reference(r, []) for r in requests}
    options = {"num_slots": num_slots, "prefill_images": prefill_images, "captions_per_image": 4}
    engine = pair.open(device="cuda", stop_ids=[], **options)
    assert {i: c.token_ids.tolist() for i, c in caption_all(engine, requests).items()} == expected
    assert engine.statistics.images == (10 if num_slots == 3 else 5)


@pytest.mark.parametrize("kv_precision", ["auto", "fp8"])
def test_a_branch_reads_what_its_lead_reads(kv_precision: str, tmp_path: Path) -> None:
    """With the same text in the same place of a step it says the same, in every precision of the cache."""
    if kv_precision == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this card has no FP8: compute capability 8.9 is needed")
    pair = make_pair(tmp_path, precision="bfloat16")
    pair = dataclasses.replace(pair, prepared=pair.prepared.with_spec(kv_precision=kv_precision))
    requests = of_one_image(random_requests(pair, 12, fields=True), 3)
    options = {"stop_ids": [], "num_slots": 6, "prefill_images": 2, "captions_per_image": 3}
    engine = pair.open(device="cuda", **options)
    engine.submit(requests[:6])
    for _ in range(3):
        engine.step()
    torch.cuda.synchronize()
    end = len(pair.prompts.prefix_ids) + pair.spec.vision.num_image_tokens
    held = engine._step.cache.data[..., :end, :].float()
    for lead in (0, 3):
        assert held[:, :, lead].abs().sum() > 0
        assert all(torch.equal(held[:, :, lead], held[:, :, lead + i]) for i in (1, 2))
    assert not torch.equal(held[:, :, 0], held[:, :, 3])
    runs = [caption_all(pair.open(device="cuda", **options), requests) for _ in "ab"]
    assert all(np.array_equal(runs[0][i].token_ids, runs[1][i].token_ids) for i in runs[0])


def test_an_engine_that_does_not_fit_says_by_how_much(pair: Pair) -> None:
    with pytest.raises(ConfigError, match=r"GiB are free, .* GiB too few\. Lower --num-slots"):
        pair.open(device="cuda", num_slots=10**8)
