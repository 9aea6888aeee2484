"""Reads what a checkpoint says about its language model, as a `TextSpec`."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recap_fast.build.config_checks import expect, expect_divisible
from recap_fast.build.model_config import DECODERS, RopeConfig, TextConfig
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Source, read_table
from recap_fast.generate.model_spec import RopeSpec, TextSpec

BIASES = {"llama": ("attention_bias", "mlp_bias"), "qwen3": ("attention_bias",)}
"""Keys of biases that are refused; other decoders do not read them. Qwen2's on queries, keys and values are no key."""
ROPES: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "dynamic": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}
"""The keys that each kind of rotary positions needs, by transformers' rope_type."""


def make_text(path: Path, given: Mapping[str, Any], table: str, decoder: str) -> TextSpec:
    """`given` is the table of this name; `decoder` is one of `DECODERS`."""
    expect(path, given, "hidden_act", {"silu": "SwiGLU"}, default="silu")
    for name in BIASES.get(decoder, ()):
        expect(path, given, name, {False: "no biases but those of Qwen2"}, default=False)
    config = read_table(Source(path, passes_unknown=True), TextConfig, {**DECODERS[decoder], **given}, table)
    heads = config.num_attention_heads
    kv_heads = config.num_key_value_heads or heads
    if config.head_dim is None:
        expect_divisible(path, "hidden_size", config.hidden_size, heads, "num_attention_heads")
    expect_divisible(path, "num_attention_heads", heads, kv_heads, "num_key_value_heads")
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
        max_positions=_max_positions(config, decoder),
        norm_eps=config.rms_norm_eps,
        tied_head=bool(config.tie_word_embeddings),
        rope=_read_rope(path, given, config, table),
        qkv_bias=decoder == "qwen2",
        qk_norm=decoder == "qwen3",
    )


def _max_positions(config: TextConfig, decoder: str) -> int:
    """As many as see all others before them: no more than a sliding window has, where there is one."""
    slides = decoder == "mistral" or (decoder.startswith("qwen") and config.use_sliding_window)
    window = config.sliding_window if slides else None
    return min(config.max_position_embeddings, window or config.max_position_embeddings)


def _read_rope(path: Path, given: Mapping[str, Any], config: TextConfig, table: str) -> RopeSpec:
    """`rope_scaling` and `rope_theta` of transformers 4, else `rope_parameters` of 5, as transformers 5 reads both."""
    name = "rope_scaling" if given.get("rope_scaling") else "rope_parameters"
    source = Source(path, passes_unknown=True)
    rope = read_table(source, RopeConfig, given.get(name) or {}, f"{table}.{name}" if table else name)
    kind = rope.rope_type or rope.type or "default"
    if kind not in ROPES:
        *first, last = map(repr, ROPES)
        raise ConfigError(f"{path}: rope_type {kind!r} is not supported, expected {', '.join(first)} or {last}.")
    part = rope.partial_rotary_factor or config.partial_rotary_factor or 1.0
    if part != 1.0:
        raise ConfigError(f"{path}: partial_rotary_factor {part} is not supported, expected 1 (whole heads turn).")
    theta = rope.rope_theta or config.rope_theta or 10000.0
    positions = config.original_max_position_embeddings or rope.original_max_position_embeddings
    found = {**asdict(rope), "original_max_position_embeddings": positions}
    return _scaled(path, kind, theta, found, config.max_position_embeddings)


def _scaled(path: Path, kind: str, theta: float, found: Mapping[str, Any], max_positions: int) -> RopeSpec:
    """`found` are the keys of its table."""
    if missing := [key for key in ROPES[kind] if found[key] is None]:
        raise ConfigError(f"{path}: rope_type {kind!r} lacks {missing[0]!r}.")
    factor, positions = found["factor"], found["original_max_position_embeddings"]
    if kind == "linear":
        return RopeSpec(theta=theta, kind="linear", factor=factor)
    if kind == "llama3":
        low, high = found["low_freq_factor"], found["high_freq_factor"]
        if high <= low:
            raise ConfigError(f"{path}: high_freq_factor {high} is not above low_freq_factor {low}.")
        return RopeSpec(
            theta=theta, factor=factor, low_freq_factor=low, high_freq_factor=high, original_max_positions=positions
        )
    if kind == "yarn":
        if theta <= 1.0:
            raise ConfigError(f"{path}: rope_theta {theta} is not above 1, as rope_type 'yarn' needs it.")
        return RopeSpec(
            theta=theta,
            kind="yarn",
            factor=factor,
            original_max_positions=positions or max_positions,
            beta_fast=found["beta_fast"] or 32.0,
            beta_slow=found["beta_slow"] or 1.0,
            truncate=found["truncate"],
            attention_factor=found["attention_factor"] or _attention_factor(factor, found),
        )
    return RopeSpec(theta=theta)  # dynamic scaling begins beyond max_position_embeddings, which no caption reaches


def _attention_factor(factor: float, found: Mapping[str, Any]) -> float:
    """As transformers derives it where it is not given (https://arxiv.org/abs/2309.00071, equation 22)."""

    def magnitude(times: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * times * math.log(factor) + 1.0

    above, below = found["mscale"], found["mscale_all_dim"]
    return magnitude(above) / magnitude(below) if above and below else magnitude(1.0)
