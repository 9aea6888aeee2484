"""An FP8 engine as a card computes it: products of 8-bit numbers, with scales in them or left to their readers."""

from typing import Any

import pytest
import torch
from support.engines import caption_all
from support.fp8_card import Card
from torch.nn import functional as F

from inputs.oracle import Pair, make_pair, random_requests
from recap_fast.generate.ops import linear, plain
from recap_fast.generate.ops.linear import quantize_channels
from recap_fast.generate.torch_backend.llama import bound_outputs

NEAR_TIE = 0.15
"""Of the largest logit: what 8 bits may make of the order of two tokens in so small a model."""


class CardLinear(linear._Fp8):
    """Its scales are left to its readers on a CPU, too."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._defers_scales = True


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    text = {"model_type": request.param, "head_dim": 16}
    return make_pair(tmp_path_factory.mktemp("fp8"), precision="fp8", text=text)


@pytest.mark.parametrize("fixed_shapes", [False, True])
@pytest.mark.parametrize("way", ["row-wise", "one scale", "refused"])
def test_first_tokens_are_those_of_transformers_or_near_ties(
    pair: Pair, way: str, fixed_shapes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    Card(monkeypatch, None if way == "refused" else (), row_wise=way != "one scale")
    monkeypatch.setattr(linear, "_Emulated", CardLinear)
    requests = random_requests(pair, 16, max_new_tokens=1)
    engine = pair.open(stop_ids=[], num_slots=8, prefill_images=4, fixed_shapes=fixed_shapes)
    done = caption_all(engine, requests)
    for request in requests:
        with torch.inference_mode():
            logits = pair.model(**pair.inputs(request.pixels, request.text_ids)).logits[0, -1]
        gap = logits.max() - logits[done[request.id].token_ids[0]]
        assert gap < NEAR_TIE * logits.abs().max()
    says = "FP8 products not row-wise, which was refused: " in pair.open(fixed_shapes=True).describe()
    assert says == (way == "refused"), "what was refused is said once the engine is open"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bias_size", [0.0, 1.0, 100.0])
def test_no_attention_output_exceeds_its_bound(seed: int, bias_size: float) -> None:
    """Inputs that go along a channel's weights reach it, but for the slack; in 8 bits they do not exceed it."""
    generator = torch.Generator().manual_seed(seed)
    values, scale = quantize_channels(torch.randn(48, 80, generator=generator), torch.float8_e4m3fn)
    norm, bias = torch.randn(80, generator=generator), bias_size * torch.randn(48, generator=generator)
    weights = {"qkv.weight": values, "qkv.scale": scale} | ({"qkv.bias": bias} if bias_size else {})
    bound = bound_outputs(weights, "qkv", norm, slice(32, None))
    along = (values.float() * scale[:, None])[32:] * norm
    inputs = torch.cat([along, -along, torch.randn(200, 80, generator=generator), 1e4 * torch.eye(80)])
    rows = plain.quantize_rows(F.rms_norm(inputs, (80,), norm, 1e-5), torch.float8_e4m3fn)
    outputs = (rows.values.float() * rows.scale) @ (values.float() * scale[:, None])[32:].T + bias[32:]
    cached = outputs.to(torch.float8_e4m3fn).float()
    assert cached.abs().max() <= bound
    assert cached.abs().max() > 0.7 * bound


@pytest.mark.parametrize(("largest", "is_used"), [(1.0, True), (20.0, True), (60.0, False), (0.0, False)])
def test_a_bound_far_above_usual_values_is_not_used(largest: float, is_used: bool) -> None:
    """One channel is larger than the others by a factor; with 0 all are zero."""
    weight = torch.ones(16, 64)
    weight[9] *= largest
    values, scale = quantize_channels(weight if largest else torch.zeros(16, 64), torch.float8_e4m3fn)
    bound = bound_outputs({"qkv.weight": values, "qkv.scale": scale}, "qkv", torch.ones(64), slice(8, None))
    assert (bound is not None) == is_used
