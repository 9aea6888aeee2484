import copy
import dataclasses
import json

import pytest
from transformers import GenerationConfig, LlavaConfig

from inputs import checkpoints
from inputs.shapes import SHAPES, clip_fields, llama_fields
from recap_fast.build.architecture import Architecture, read_architecture
from recap_fast.errors import ConfigError
from recap_fast.generate.model_spec import RopeSpec, TextSpec

LLAVA_1_5_7B = {  # as published: what equals a default is left out
    "model_type": "llava",
    "image_token_index": 32000,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "text_config": {"max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-05, "vocab_size": 32064},
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
}
LLAVA_LLAMA3_8B = {  # the original LLaVA's layout
    "model_type": "llava_llama",
    "architectures": ["LlavaLlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-05,
    "eos_token_id": 128001,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "flat",
    "image_aspect_ratio": "pad",
    "mm_use_im_start_end": False,
}
CLIP_L = SHAPES["8b"].vision


def read(folder, config: dict) -> Architecture:
    (folder / "config.json").write_text(json.dumps(config))
    return read_architecture(folder)


def test_llava_1_5_7b(tmp_path):
    found = read(tmp_path, LLAVA_1_5_7B)
    assert found.vision == CLIP_L
    assert found.text == TextSpec(
        hidden_size=4096,
        intermediate_size=11008,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        vocab_size=32064,
        max_positions=4096,
        norm_eps=1e-5,
        tied_head=False,
        rope=RopeSpec(theta=10000.0),
    )
    assert (found.num_vision_layers, found.projector_bias, found.eos_ids, found.preprocess_mode) == (24, True, (), None)


def test_original_llava_on_llama3(tmp_path):
    found = read(tmp_path, LLAVA_LLAMA3_8B)
    assert found.vision == CLIP_L
    assert found.text == dataclasses.replace(SHAPES["8b"].text, vocab_size=128256)
    assert (found.eos_ids, found.preprocess_mode) == ((128001,), "pad")


def test_defaults_are_those_of_transformers(tmp_path):
    bare = read(tmp_path, {"model_type": "llava", "text_config": {}, "vision_config": {}})
    from transformers import CLIPVisionConfig, LlamaConfig

    text, vision = llama_fields(bare.text), clip_fields(bare.vision)
    del text["rope_theta"], vision["projection_dim"]  # under another name, and read by nobody
    assert text == {name: getattr(LlamaConfig(), name) for name in text}
    assert vision == {name: getattr(CLIPVisionConfig(), name) for name in vision}
    assert bare.text.rope == RopeSpec(theta=10000.0)
    assert (bare.vision.activation, bare.vision.norm_eps) == ("quick_gelu", CLIPVisionConfig().layer_norm_eps)
    without = read(tmp_path, {"model_type": "llava"})
    assert without.vision == CLIP_L
    assert without.num_vision_layers == LlavaConfig().vision_config.num_hidden_layers


def with_text(**changes):
    return {**LLAVA_1_5_7B, "text_config": {**LLAVA_1_5_7B["text_config"], **changes}}


def test_rope_of_both_versions(tmp_path):
    expected = RopeSpec(theta=500000.0, factor=8.0, original_max_positions=256)
    new = {"rope_parameters": checkpoints.LLAMA31_ROPE}
    scaling = {k: v for k, v in checkpoints.LLAMA31_ROPE.items() if k != "rope_theta"}
    old = {"rope_theta": 500000.0, "rope_scaling": scaling}
    assert read(tmp_path, with_text(**old)).text.rope == read(tmp_path, with_text(**new)).text.rope == expected
    assert read(tmp_path, with_text(rope_theta=1e6, rope_scaling=None)).text.rope == RopeSpec(theta=1e6)
    del scaling["factor"]
    with pytest.raises(ConfigError, match="rope_type 'llama3' lacks 'factor'"):
        read(tmp_path, with_text(**old))


@pytest.mark.parametrize(("layer", "num_layers"), [(-2, 23), (-1, 24), (22, 22), ([-3], 22), (-24, 1)])
def test_vision_layer_counts_hidden_states(tmp_path, layer, num_layers):
    assert read(tmp_path, {**LLAVA_1_5_7B, "vision_feature_layer": layer}).vision.num_layers == num_layers


def test_tied_head_may_be_said_in_either_place(tmp_path):
    assert read(tmp_path, with_text(tie_word_embeddings=True)).text.tied_head
    assert read(tmp_path, {**LLAVA_1_5_7B, "tie_word_embeddings": True}).text.tied_head


@pytest.mark.parametrize(
    ("beside", "within"),
    [({"eos_token_id": a}, {"eos_token_id": b}) for a, b in ((5, 7), (None, 7), ([5, 6], None))]
    + [({}, {"eos_token_id": 7}), ({"eos_token_id": 5}, {})],
)
def test_stop_ids_are_those_that_transformers_takes(tmp_path, beside, within):
    config = {**with_text(**within), **beside}
    theirs = GenerationConfig.from_model_config(LlavaConfig.from_dict(copy.deepcopy(config))).eos_token_id
    assert read(tmp_path, config).eos_ids == tuple(theirs if isinstance(theirs, list) else [theirs])


def test_tower_may_be_a_folder(tmp_path):
    checkpoints.make_checkpoint(tmp_path, "original")
    assert read_architecture(tmp_path).vision.hidden_size == SHAPES["tiny"].vision.hidden_size


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "llava_next", "architectures": ["X"]},
            r"model_type 'llava_next' \(X\) is not supported. recap-f",
        ),
        ({"model_type": "qwen2_vl"}, r"'qwen2_vl' \(no architecture named\).*a CLIP or SigLIP vision tower, a two"),
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({**LLAVA_1_5_7B, "vision_config": {"model_type": "dinov2"}}, "vision_config.model_type 'dinov2' is not"),
        (
            with_text(model_type="gemma"),
            "text_config.model_type 'gemma' is not supported, expected 'llama' or 'mistral'",
        ),
        (with_text(model_type="qwen2_vl"), "text_config.model_type 'qwen2_vl'"),
        (with_text(attention_bias=True), "attention_bias True is not supported"),
        (with_text(hidden_act="gelu"), "hidden_act 'gelu' is not supported, expected 'silu'"),
        (with_text(num_attention_heads=30), "hidden_size 4096 is not a multiple of num_attention_heads 30"),
        ({**LLAVA_1_5_7B, "projector_hidden_act": "relu"}, "projector_hidden_act 'relu'"),
        (
            {**LLAVA_1_5_7B, "vision_feature_select_strategy": "cls"},
            "strategy 'cls' is .*, expected 'default' .* 'full'",
        ),
        (
            {**LLAVA_1_5_7B, "vision_feature_layer": [-2, -5]},
            r"vision_feature_layer \[-2, -5\] is not .* one layer, 1 to 24",
        ),
        ({**LLAVA_1_5_7B, "vision_feature_layer": -25}, "vision_feature_layer -25 is not .* or -24 to -1"),
        ({**LLAVA_1_5_7B, "quantization_config": {"bits": 4}}, "a quantization_config: its weights are quantized"),
        (
            {**LLAVA_LLAMA3_8B, "mm_vision_tower": "google/siglip-so400m-patch14-385"},
            "siglip.*known towers: clip-vit-la.*siglip-so400m-patch14-384.*or a folder",
        ),
        ({**LLAVA_LLAMA3_8B, "mm_vision_tower": None}, "names no mm_vision_tower"),
        ({**LLAVA_LLAMA3_8B, "mm_projector_type": "mlp3x_gelu"}, "mm_projector_type 'mlp3x_gelu'"),
        ({**LLAVA_LLAMA3_8B, "image_aspect_ratio": "anyres"}, "image_aspect_ratio 'anyres' is not supported"),
        ({**LLAVA_LLAMA3_8B, "mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type 'spatial_unpad'"),
        ({**LLAVA_LLAMA3_8B, "mm_vision_select_feature": "cls"}, "mm_vision_select_feature 'cls' is not supported"),
        (
            {**LLAVA_LLAMA3_8B, "mm_vision_select_layer": "-2"},
            "config.json: mm_vision_select_layer '-2' is not supported",
        ),
        ({**LLAVA_LLAMA3_8B, "mm_use_im_start_end": True}, "mm_use_im_start_end True"),
        ({**LLAVA_LLAMA3_8B, "model_type": "llava_mpt"}, "model_type 'llava_mpt'"),
    ],
)
def test_other_architectures_are_refused_by_name(tmp_path, config, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, config)


def test_unreadable_configs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config.json cannot be read: No such file"):
        read_architecture(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not json"):
        read_architecture(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds list, expected an object"):
        read_architecture(tmp_path)
