"""What is read of each kind of decoder, with the defaults that transformers has for it, and what is refused."""

import copy
import json

import pytest
from transformers import CONFIG_MAPPING

from recap_fast.build.architecture import read_architecture
from recap_fast.build.model_config import DECODERS
from recap_fast.errors import ConfigError
from recap_fast.generate.model_spec import RopeSpec

LLAVA_QWEN = {  # what LLaVA-NeXT's code writes for one image without tiles
    "model_type": "llava",
    "architectures": ["LlavaQwenForCausalLM"],
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "flat",
    "image_aspect_ratio": "pad",
}
LLAVA_MISTRAL = {  # as published, but for tiles
    **LLAVA_QWEN,
    "model_type": "llava_mistral",
    "architectures": ["LlavaMistralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "sliding_window": None,
    "tie_word_embeddings": False,
}


def read(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    return read_architecture(folder).text


def read_text(folder, kind="llama", **text):
    """Of transformers' LLaVA."""
    return read(folder, {"model_type": "llava", "text_config": {"model_type": kind, **text}})


@pytest.mark.parametrize("kind", DECODERS)
def test_defaults_are_those_of_transformers(tmp_path, kind):
    text, default = read_text(tmp_path, kind), CONFIG_MAPPING[kind]()
    for ours, theirs in {
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "intermediate_size": "intermediate_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
        "norm_eps": "rms_norm_eps",
        "tied_head": "tie_word_embeddings",
    }.items():
        assert getattr(text, ours) == getattr(default, theirs), ours
    assert text.head_dim == (getattr(default, "head_dim", None) or default.hidden_size // default.num_attention_heads)
    window = getattr(default, "sliding_window", None)
    assert text.max_positions == min(default.max_position_embeddings, window or default.max_position_embeddings)
    assert text.rope == RopeSpec(theta=default.rope_parameters["rope_theta"])
    assert (text.qkv_bias, text.qk_norm) == (kind == "qwen2", kind == "qwen3")


def test_original_llava_on_qwen_and_mistral(tmp_path):
    qwen = read(tmp_path, LLAVA_QWEN)
    assert (qwen.head_dim, qwen.num_kv_heads, qwen.qkv_bias, qwen.tied_head) == (64, 2, True, True)
    assert qwen.rope == RopeSpec(theta=1e6)
    for name in ("llava_llama", "llava_qwen"):  # it calls itself so while it runs
        assert read(tmp_path, {**LLAVA_QWEN, "model_type": name}) == qwen
    bare = {k: v for k, v in LLAVA_QWEN.items() if k != "architectures"}
    assert read(tmp_path, {**bare, "model_type": "llava_qwen"}) == qwen
    scaled = {**LLAVA_QWEN, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert read(tmp_path, scaled) == qwen, "its code drops the scaling"
    mistral = read(tmp_path, LLAVA_MISTRAL)
    assert (mistral.num_kv_heads, mistral.qkv_bias, mistral.max_positions) == (8, False, 32768)
    assert read(tmp_path, {**LLAVA_MISTRAL, "rope_scaling": {"type": "linear", "factor": 2.0}}) == mistral


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("mistral", {"sliding_window": 4096}, 4096),
        ("mistral", {"sliding_window": None}, 32768),
        ("mistral", {"sliding_window": 65536}, 32768),
        ("qwen2", {"sliding_window": 4096}, 32768),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": True}, 4096),
        ("qwen3", {"sliding_window": None, "use_sliding_window": True}, 32768),
        ("llama", {"sliding_window": 4096}, 32768),
    ],
)
def test_positions_beyond_a_sliding_window_do_not_count(tmp_path, kind, given, expected):
    assert read_text(tmp_path, kind, max_position_embeddings=32768, **given).max_positions == expected


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"type": "default"}, RopeSpec(theta=5e5)),
        ({"type": "dynamic", "factor": 2.0}, RopeSpec(theta=5e5)),
        ({"type": "linear", "factor": 2.0}, RopeSpec(theta=5e5, kind="linear", factor=2.0)),
        (
            {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
            RopeSpec(
                theta=5e5, kind="yarn", factor=4.0, original_max_positions=512, attention_factor=1.1386294361119891
            ),
        ),
        (
            {"type": "yarn", "factor": 1.0, "beta_fast": 16, "beta_slow": 2.0, "truncate": False},
            RopeSpec(
                theta=5e5,
                kind="yarn",
                factor=1.0,
                original_max_positions=2048,
                beta_fast=16.0,
                beta_slow=2.0,
                truncate=False,
            ),
        ),
        (
            {"type": "yarn", "factor": 4.0, "attention_factor": 0.5, "mscale": 3.0, "mscale_all_dim": 1.0},
            RopeSpec(theta=5e5, kind="yarn", factor=4.0, original_max_positions=2048, attention_factor=0.5),
        ),
    ],
)
def test_rotary_positions_of_both_versions(tmp_path, scaling, expected):
    new = {"rope_parameters": {**scaling, "rope_type": scaling["type"], "rope_theta": 5e5}}
    old = {"rope_theta": 5e5, "rope_scaling": scaling}
    assert read_text(tmp_path, **new).rope == read_text(tmp_path, **old).rope == expected


def test_of_both_versions_in_one_file_the_scaling_is_read_as_transformers_does(tmp_path):
    both = {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    }
    expected = CONFIG_MAPPING["qwen2"](**copy.deepcopy(both)).rope_parameters
    assert expected == {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    assert read_text(tmp_path, "qwen2", **both).rope == RopeSpec(theta=1e4, kind="linear", factor=4.0)
    assert read_text(tmp_path, "qwen2", **both, rope_theta=5e5).rope == RopeSpec(theta=5e5, kind="linear", factor=4.0)


def test_original_positions_beside_the_scaling_come_first(tmp_path):
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert (
        read_text(tmp_path, rope_scaling=yarn, original_max_position_embeddings=256).rope.original_max_positions == 256
    )


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (
            "llama",
            {"attention_bias": True},
            "attention_bias True is not supported, expected False .no biases but those of Q",
        ),
        ("llama", {"mlp_bias": True}, "mlp_bias True is not supported"),
        ("qwen3", {"attention_bias": True}, "attention_bias True is not supported"),
        ("qwen2", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported, expected 'silu'"),
        ("qwen2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported, expected 1"),
        ("llama", {"rope_scaling": {"type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5 is"),
        (
            "llama",
            {"rope_scaling": {"type": "longrope", "factor": 2.0}},
            "rope_type 'longrope' is not supported, expected 'default', 'dynamic', 'linear', 'llama3' or 'yarn'",
        ),
        ("qwen2", {"rope_scaling": {"type": "mrope"}}, "rope_type 'mrope' is not supported"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "rope_type 'linear' lacks 'factor'"),
        ("llama", {"rope_scaling": {"type": "yarn"}}, "rope_type 'yarn' lacks 'factor'"),
        (
            "llama",
            {"rope_theta": 1.0, "rope_scaling": {"type": "yarn", "factor": 2.0}},
            "rope_theta 1.0 is not above 1",
        ),
        ("mistral", {"sliding_window": 0}, "'text_config.sliding_window' must be an integer from 1"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path, kind, given, message):
    with pytest.raises(ConfigError, match=message):
        read_text(tmp_path, kind, **given)


@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
def test_keys_of_other_decoders_mean_nothing(tmp_path, kind):
    assert read_text(tmp_path, kind, attention_bias=True, mlp_bias=True) == read_text(tmp_path, kind)
