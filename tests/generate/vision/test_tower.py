"""Vision towers of every kind in front of a decoder: captions equal those of transformers, token for token."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engines import caption_all
from support.operations import random

from inputs.oracle import make_pair, random_requests
from inputs.shapes import SHAPES
from recap_fast.generate.ops import cpp, plain
from recap_fast.generate.spec import WEIGHTS_FILE, EngineSpec
from recap_fast.generate.torch_backend import step
from recap_fast.generate.torch_backend.llama import Llama
from recap_fast.generate.vision.loading import load_weights
from recap_fast.generate.vision.tower import VisionTower, load_tower, make_activation

FULL = {"vision_feature_select_strategy": "full"}


def siglip(llava: dict[str, Any] = FULL, **vision: Any) -> dict[str, Any]:
    return {"vision": {"model_type": "siglip_vision_model", **vision}, "llava": llava, "preprocess": "stretch"}


CHECKPOINTS = {
    "siglip": siglip(),
    "siglip_without_its_first_patch": siglip({}),
    "siglip_without_its_head": siglip(vision_use_head=False, hidden_act="gelu"),
    "siglip_heads_of_72_last_layer": siglip(
        {**FULL, "vision_feature_layer": -1}, hidden_size=144, num_attention_heads=2, intermediate_size=269
    ),
    "siglip_heads_of_20_first_layer": siglip(
        {**FULL, "vision_feature_layer": 1}, hidden_size=60, num_attention_heads=3, image_size=30
    ),
    "siglip_rest_of_an_image": siglip(image_size=37, patch_size=7),
    "siglip_one_patch": siglip(image_size=13, patch_size=8, hidden_size=21),
    "clip_with_its_class_token": {"llava": FULL},
    "clip_rest_of_an_image_by_tanh": {"vision": {"image_size": 37, "hidden_act": "gelu_pytorch_tanh"}},
    "clip_heads_of_20": {"vision": {"hidden_size": 60, "image_size": 27, "patch_size": 9}, "llava": FULL},
}


@pytest.mark.parametrize("operations", ["cpp", "plain", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_captions_equal_transformers(
    kind: str, operations: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the tower in one call of C++, and by the one of single operations, which GPUs run: there with Triton's."""

    def make_model(spec: EngineSpec, weights: dict[str, torch.Tensor], num_positions: int, *_: object) -> object:
        tower = VisionTower(spec.vision, spec.preprocess, weights, plain)
        return tower, Llama(spec.text, weights, num_positions, plain)

    if operations == "plain":
        monkeypatch.setattr(step, "make_model", make_model)
    pair = make_pair(tmp_path, **CHECKPOINTS[kind])
    requests = random_requests(pair, 6, fields=True)
    expected = [pair.reference(r, []) for r in requests]
    assert len({tuple(c) for c in expected}) > 3, "the captions must differ for this test to mean something"
    for num_slots, prefill_images in ((1, 1), (3, 3), (5, 2)):
        for fixed_shapes in (False, True):
            sizes = {"num_slots": num_slots, "prefill_images": prefill_images, "fixed_shapes": fixed_shapes}
            device = "cuda" if operations == "cuda" else "cpu"
            done = caption_all(pair.open(stop_ids=[], device=device, **sizes), requests)
            assert [done[i].token_ids.tolist() for i in range(6)] == expected


def test_a_tower_alone_reads_the_same_weights(tmp_path: Path) -> None:
    """As the backend tensorrt-llm loads it."""
    pair = make_pair(tmp_path, **CHECKPOINTS["siglip"])
    pixels = torch.from_numpy(random_requests(pair, 1)[0].pixels)[None]
    weights = load_weights(pair.folder / WEIGHTS_FILE, pair.spec, torch.device("cpu"))
    alone = load_tower(pair.folder / WEIGHTS_FILE, pair.spec, torch.device("cpu"))
    expected = VisionTower(pair.spec.vision, pair.spec.preprocess, weights, cpp).encode(pixels)
    assert torch.equal(alone.encode(pixels), expected)
    assert expected.shape == (1, pair.spec.vision.num_image_tokens, pair.spec.text.hidden_size)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_other_precisions_stay_near(precision: str, tmp_path: Path) -> None:
    """An int8 engine's tower is in 8 bits on a CPU, and so the activation quantizes what it makes."""
    exact, rounded = (make_pair(tmp_path / p, precision=p, **CHECKPOINTS["siglip"]) for p in ("float32", precision))
    pixels = torch.from_numpy(random_requests(exact, 1)[0].pixels)[None]
    expected, got = (
        load_tower(p.folder / WEIGHTS_FILE, p.spec, torch.device("cpu")).encode(pixels).float()
        for p in (exact, rounded)
    )
    distance = float((got - expected).norm() / expected.norm())
    assert 0 < distance < 0.1


@pytest.mark.parametrize(("activation", "approximate"), [("gelu", "none"), ("gelu_tanh", "tanh")])
def test_activations_are_told_apart(activation: Any, approximate: str) -> None:
    x = random(3, 40)
    y = make_activation(dataclasses.replace(SHAPES["tiny"].vision, activation=activation), plain)(x, None)
    assert isinstance(y, torch.Tensor)
    assert torch.equal(y, torch.nn.functional.gelu(x, approximate=approximate))
