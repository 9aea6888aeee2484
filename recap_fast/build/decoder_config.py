"""Reads what a checkpoint says about its language model, as a `TextSpec`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recap_fast.build.config_checks import expect, expect_divisible
from recap_fast.build.model_config import LLAMA, RopeConfig, TextConfig
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Source, read_table
from recap_fast.generate.spec import RopeSpec, TextSpec


def make_text(path: Path, given: Mapping[str, Any], table: str) -> TextSpec:
    expect(path, given, "hidden_act", {"silu": "SwiGLU"}, default="silu")
    for name in ("attention_bias", "mlp_bias"):
        expect(path, given, name, {False: "Llama's layers without biases"}, default=False)
    config = read_table(Source(path, passes_unknown=True), TextConfig, {**LLAMA, **given}, table)
    heads = config.num_attention_heads
    kv_heads = config.num_key_value_heads or heads
    if config.head_dim is None:
        expect_divisible(path, "hidden_size", config.hidden_size, heads)
    expect_divisible(path, "num_attention_heads", heads, kv_heads)
    head_dim = config.head_dim or config.hidden_size // heads
    expect_divisible(path, "the width of a head", head_dim, 2)
    return TextSpec(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        norm_eps=config.rms_norm_eps,
        tied_head=bool(config.tie_word_embeddings),
        rope=_rope(path, given, config.rope_theta, table),
    )


def _rope(path: Path, config: Mapping[str, Any], theta: float | None, table: str) -> RopeSpec:
    """`rope_parameters` of transformers 5, else `rope_theta` and `rope_scaling` of 4."""
    name = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    source = Source(path, passes_unknown=True)
    rope = read_table(source, RopeConfig, config.get(name) or {}, f"{table}.{name}" if table else name)
    kind = rope.rope_type or rope.type or "default"
    theta = rope.rope_theta or theta or 10000.0
    if kind == "default":
        return RopeSpec(theta=theta)
    if kind != "llama3":
        raise ConfigError(f"{path}: rope_type {kind!r} is not supported, expected 'default' or 'llama3' (Llama 3.1).")
    needed = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    values = [getattr(rope, each) for each in needed]
    if None in values:
        raise ConfigError(f"{path}: rope_type 'llama3' lacks {needed[values.index(None)]!r}.")
    factor, low, high, positions = values
    if high <= low:
        raise ConfigError(f"{path}: high_freq_factor {high} is not above low_freq_factor {low}.")
    return RopeSpec(
        theta=theta, factor=factor, low_freq_factor=low, high_freq_factor=high, original_max_positions=positions
    )
