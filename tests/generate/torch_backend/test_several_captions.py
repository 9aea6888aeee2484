"""Several requests of one image: it is computed once, and each says what it says alone."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support.engines import caption_all

from inputs.oracle import Pair, make_pair, random_requests
from recap_fast.generate.engine import Sampling
from recap_fast.generate.ops import plain
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.torch_backend import step
from recap_fast.generate.torch_backend.engine import TorchEngine
from recap_fast.generate.torch_backend.llama import Llama
from recap_fast.generate.vision.tower import VisionTower
from recap_fast.records import Request

NUM_PROMPTS = 4
SIZES = (4, 1, 4, 2, 3, 4, 1, 4)
"""Requests of each image."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def requests(pair: Pair) -> list[Request]:
    """Groups of requests and single ones, with texts and captions of different lengths."""
    return in_groups(random_requests(pair, sum(SIZES), fields=True), SIZES)


@pytest.fixture(scope="module")
def expected(pair: Pair, requests: list[Request]) -> dict[int, list[int]]:
    """transformers' captions of each request, alone."""
    captions = {request.id: pair.reference(request, []) for request in requests}
    assert len({tuple(caption) for caption in captions.values()}) > 12, "captions differ, also those of one image"
    return captions


def in_groups(requests: Sequence[Request], sizes: Sequence[int]) -> list[Request]:
    """The same requests, so many of each image; every third one ends at its first token, some of the leads as well."""
    grouped = []
    for size in sizes:
        lead, *others = requests[len(grouped) : len(grouped) + size]
        grouped += [lead] + [dataclasses.replace(r, pixels=lead.pixels, same_image_as=lead.id) for r in others]
    return [dataclasses.replace(r, max_new_tokens=1 if r.id % 3 == 0 else r.max_new_tokens) for r in grouped]


def ids(engine: TorchEngine, requests: Sequence[Request]) -> dict[int, list[int]]:
    return {number: done.token_ids.tolist() for number, done in caption_all(engine, requests).items()}


@pytest.mark.parametrize("fixed_shapes", [False, True])
@pytest.mark.parametrize("prefill_images", [1, 3, 8])
@pytest.mark.parametrize("num_slots", [1, 3, 4, 5, 9, 32])
def test_captions_are_those_of_each_prompt_alone(
    pair: Pair,
    requests: list[Request],
    expected: dict[int, list[int]],
    num_slots: int,
    prefill_images: int,
    fixed_shapes: bool,
) -> None:
    options = {"num_slots": num_slots, "prefill_images": prefill_images, "fixed_shapes": fixed_shapes}
    engine = pair.open(stop_ids=[], captions_per_image=NUM_PROMPTS, **options)
    assert ids(engine, requests) == expected
    assert engine.free_slots == num_slots
    parts = sum(-(-size // min(NUM_PROMPTS, num_slots)) for size in SIZES)
    assert engine.statistics.images == parts, "an image is computed once for as many requests as there are slots"


@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_captions_with_plain_operations(
    pair: Pair,
    requests: list[Request],
    expected: dict[int, list[int]],
    fixed_shapes: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Layers are Python's and texts go through torch's causal attention here, as on a GPU."""

    def make_model(spec: EngineSpec, weights: dict[str, torch.Tensor], num_positions: int, *_: object) -> object:
        tower = VisionTower(spec.vision, spec.preprocess, weights, plain)
        return tower, Llama(spec.text, weights, num_positions, plain)

    monkeypatch.setattr(step, "make_model", make_model)
    options = {"num_slots": 9, "prefill_images": 2, "fixed_shapes": fixed_shapes}
    assert ids(pair.open(stop_ids=[], captions_per_image=NUM_PROMPTS, **options), requests) == expected


@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_a_lead_may_stop_at_its_first_token(
    pair: Pair, requests: list[Request], expected: dict[int, list[int]], fixed_shapes: bool
) -> None:
    leads = [r for r in requests if r.same_image_as is None]
    stop_ids = {expected[lead.id][0] for lead in leads}
    options = {"num_slots": 5, "prefill_images": 1, "fixed_shapes": fixed_shapes}
    done = ids(pair.open(stop_ids=list(stop_ids), captions_per_image=NUM_PROMPTS, **options), requests)
    assert all(done[lead.id] == [] for lead in leads)
    ends = {i: next((n for n, token in enumerate(c) if token in stop_ids), len(c)) for i, c in expected.items()}
    assert done == {i: caption[: ends[i]] for i, caption in expected.items()}
    assert any(ends[r.id] > 0 for r in requests), "not all branches stop as well"


@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_sampled_captions_of_one_prompt_differ_by_their_noise_alone(pair: Pair, fixed_shapes: bool) -> None:
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=3)
    singles = [r for lead in random_requests(pair, 3) for r in [lead] * 4]
    singles = [dataclasses.replace(r, id=i, noise_key=i % 4) for i, r in enumerate(singles)]
    grouped = [dataclasses.replace(r, same_image_as=None if i % 4 == 0 else i // 4 * 4) for i, r in enumerate(singles)]
    alone = ids(pair.open(stop_ids=[], num_slots=1, sampling=sampling), singles)
    options = {"num_slots": 7, "prefill_images": 2, "fixed_shapes": fixed_shapes, "sampling": sampling}
    assert ids(pair.open(stop_ids=[], captions_per_image=4, **options), grouped) == alone
    assert len({tuple(caption) for caption in alone.values()}) == 12


@pytest.mark.parametrize("fixed_shapes", [False, True])
@pytest.mark.parametrize("kv_precision", ["auto", "fp8"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "fp8"])
def test_a_copied_image_is_the_same_in_every_precision(
    precision: str, kv_precision: str, fixed_shapes: bool, tmp_path: Path
) -> None:
    """A branch reads what its lead reads: with the same text it says the same, in 8 bits as well."""
    pair = make_pair(tmp_path, precision=precision)
    pair = dataclasses.replace(pair, prepared=pair.prepared.with_spec(kv_precision=kv_precision))
    twins = [r for lead in random_requests(pair, 4, fields=True) for r in [lead] * 2]
    twins = [dataclasses.replace(r, id=i, same_image_as=i - 1 if i % 2 else None) for i, r in enumerate(twins)]
    options = {"num_slots": 4, "prefill_images": 2, "fixed_shapes": fixed_shapes}
    engine = pair.open(stop_ids=[], captions_per_image=2, **options)
    engine.submit(twins[:4])
    for _ in range(3):
        engine.step()
    held = engine._step.cache.data.float()[:, :, :, :, : len(pair.prompts.prefix_ids) + 16]
    for lead, branch in ((0, 1), (2, 3)):
        assert torch.equal(held[:, :, lead], held[:, :, branch])
        assert held[:, :, lead].abs().sum() > 0
    assert not torch.equal(held[:, :, 0], held[:, :, 2])


def test_an_engine_for_single_captions_computes_each_request(
    pair: Pair, requests: list[Request], expected: dict[int, list[int]]
) -> None:
    for fixed_shapes in (False, True):
        engine = pair.open(stop_ids=[], num_slots=5, fixed_shapes=fixed_shapes)
        assert ids(engine, requests) == expected
        assert engine.statistics.images == len(requests)


def test_a_request_without_a_text_has_its_image_computed(pair: Pair) -> None:
    empty = np.zeros(0, np.int32)
    lead, other = (dataclasses.replace(r, text_ids=empty) for r in random_requests(pair, 2))
    twins = [lead, dataclasses.replace(other, pixels=lead.pixels, same_image_as=lead.id)]
    engine = pair.open(stop_ids=[], num_slots=4, captions_per_image=2)
    done = ids(engine, twins)
    assert done[0] == done[1] == pair.reference(lead, [])
    assert engine.statistics.images == 2


def test_statistics_count_an_image_once_and_each_text(pair: Pair, requests: list[Request]) -> None:
    engine = pair.open(stop_ids=[], num_slots=4, captions_per_image=4)
    group = requests[:4]
    caption_all(engine, group)
    counts = engine.statistics
    assert (counts.images, counts.mixed_steps) == (1, 2)
    assert counts.prompt_tokens == pair.spec.vision.num_image_tokens + sum(len(r.text_ids) for r in group)
    assert "4 slots, prefill batches of 1, up to 4 captions of an image at once" in engine.describe()
    few = pair.open(num_slots=3, captions_per_image=4)
    assert "3 slots, prefill batches of 1, up to 3 captions of an image at once" in few.describe()
    one = pair.open(num_slots=1, captions_per_image=4)
    assert "captions of an image" not in one.describe()


def test_logits_do_not_disturb_a_group_that_runs(
    pair: Pair, requests: list[Request], expected: dict[int, list[int]]
) -> None:
    engine = pair.open(stop_ids=[], num_slots=4, captions_per_image=4)
    engine.submit(requests[5:9])
    done = {}
    while engine.free_slots < 4:
        done.update({c.id: c.token_ids.tolist() for c in engine.step()})
        engine.logits(requests[9])
    assert done == {i: expected[i] for i in done}
    assert len(done) == 4
