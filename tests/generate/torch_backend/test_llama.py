"""Decoders that are not quite Llama's say what transformers says, and Llama's with other positions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engines import caption_all
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from inputs import checkpoints
from inputs.oracle import make_pair, random_requests
from recap_fast.build.architecture import read_architecture
from recap_fast.generate.ops import plain
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.torch_backend import step
from recap_fast.generate.torch_backend.llama import Llama, rope_table
from recap_fast.generate.vision.tower import VisionTower

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)]
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 40}
"""Scaled from so few positions that those of a tiny model reach beyond them."""
DECODERS: dict[str, dict[str, Any]] = {
    "qwen2": {"text": {"model_type": "qwen2"}},
    "qwen2_tied_one_kv_head": {
        "text": {"model_type": "qwen2", "num_key_value_heads": 1, "tie_word_embeddings": True, "head_dim": 20}
    },
    "qwen2_original": {"text": {"model_type": "qwen2", "num_hidden_layers": 1}, "layout": "original"},
    "qwen3": {"text": {"model_type": "qwen3", "head_dim": 16}},
    "qwen3_wide_heads_tied": {
        "text": {"model_type": "qwen3", "head_dim": 24, "tie_word_embeddings": True, "rms_norm_eps": 1e-3}
    },
    "qwen3_original": {"text": {"model_type": "qwen3", "head_dim": 16, "num_hidden_layers": 1}, "layout": "original"},
    "mistral": {"text": {"model_type": "mistral", "sliding_window": None}},
    "mistral_with_a_window": {"text": {"model_type": "mistral", "sliding_window": 400}, "layout": "original"},
    "linear": {"text": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}}},
    "dynamic": {"text": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0}}},
    "yarn": {"text": {"rope_parameters": YARN}},
    "yarn_in_full": {
        "text": {
            "model_type": "qwen3",
            "head_dim": 24,
            "rope_parameters": {**YARN, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False, "mscale": 2.0}
            | {"mscale_all_dim": 0.5},
        },
        "layout": "hf4",
    },
    "yarn_with_a_factor": {"text": {"rope_parameters": {**YARN, "attention_factor": 0.8}}},
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("device", DEVICES)
def test_captions_equal_transformers(decoder: str, device: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, **DECODERS[decoder])
    requests = random_requests(pair, 8, fields=True)
    expected = [pair.reference(r, []) for r in requests]
    assert len({tuple(c) for c in expected}) > 4, "the captions must differ for this test to mean something"
    for num_slots, prefill_images, fixed_shapes in ((1, 1, False), (3, 2, True), (8, 3, False)):
        sizes = {"num_slots": num_slots, "prefill_images": prefill_images}
        engine = pair.open(device=device, stop_ids=[], fixed_shapes=fixed_shapes, **sizes)
        done = caption_all(engine, requests)
        assert [done[i].token_ids.tolist() for i in range(8)] == expected


@pytest.mark.parametrize("decoder", ["llama", "qwen2", "qwen3", "yarn"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "fp8", "int8"])
@pytest.mark.parametrize("device", DEVICES)
def test_lower_precisions_take_another_token_only_at_a_near_tie(
    decoder: str, precision: str, device: str, tmp_path: Path
) -> None:
    if precision == "fp8" and device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this card has no FP8: compute capability 8.9 is needed")
    pair = make_pair(tmp_path, precision=precision, **DECODERS.get(decoder, {}))
    requests = random_requests(pair, 24, max_new_tokens=1)
    done = caption_all(pair.open(device=device, stop_ids=[], num_slots=16), requests)
    allowed = 3e-2 if precision.endswith("float16") else 1.5e-1
    for request in requests:
        with torch.inference_mode():
            logits = pair.model(**pair.inputs(request.pixels, request.text_ids)).logits[0, -1]
        gap = logits.max() - logits[done[request.id].token_ids[0]]
        assert gap < allowed * logits.abs().max()


@pytest.mark.parametrize("decoder", ["qwen2", "qwen3"])
def test_captions_with_plain_operations(decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are Python's and prompts go through torch's causal attention here, as on a GPU."""

    def make_model(spec: EngineSpec, weights: dict[str, torch.Tensor], num_positions: int, *_: object) -> object:
        tower = VisionTower(spec.vision, spec.preprocess, weights, plain)
        return tower, Llama(spec.text, weights, num_positions, plain)

    monkeypatch.setattr(step, "make_model", make_model)
    pair = make_pair(tmp_path, **DECODERS[decoder])
    requests = random_requests(pair, 6, fields=True)
    expected = [pair.reference(r, []) for r in requests]
    for fixed_shapes in (False, True):
        done = caption_all(pair.open(stop_ids=[], num_slots=4, prefill_images=2, fixed_shapes=fixed_shapes), requests)
        assert [done[i].token_ids.tolist() for i in range(6)] == expected


@pytest.mark.parametrize("name", ["linear", "dynamic", "yarn", "yarn_in_full", "yarn_with_a_factor", "llama3"])
@pytest.mark.parametrize("head_dim", [4, 20, 128])
def test_turns_of_each_kind_are_those_of_transformers(name: str, head_dim: int, tmp_path: Path) -> None:
    """A frequency may be off by a few roundings, and an angle by these times its size."""
    given = checkpoints.LLAMA31_ROPE if name == "llama3" else DECODERS[name]["text"]["rope_parameters"]
    config = LlamaConfig(head_dim=head_dim, rope_parameters=dict(given))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": config.to_dict()}))
    positions = torch.tensor([0, 1, 39, 1000, config.max_position_embeddings - 1])
    expected = LlamaRotaryEmbedding(config)(torch.zeros(1), positions[None])
    rope = rope_table(read_architecture(tmp_path).text.rope, head_dim, config.max_position_embeddings)
    half = head_dim // 2
    sign = torch.cat([-torch.ones(half), torch.ones(half)])
    allowed = 2.0**-24 * (8 * positions[:, None] + 4)
    for got, wanted in zip((rope.cos, rope.sin * sign), expected, strict=True):
        assert ((got[positions] - wanted[0]).abs() <= allowed).all()
