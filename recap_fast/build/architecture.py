"""Reads what a checkpoint's config.json says about its model, as an `Architecture`.

It knows the original LLaVA's config (`llava_llama`) and transformers' (`llava`, versions 4 and 5), which leave out
what equals their defaults. Anything but LLaVA-1.5 (CLIP, a projector of two layers with GELU, Llama) is refused by
name.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recap_fast.build.model_config import (
    CLIP,
    CLIP_BASE,
    CLIP_LARGE,
    CLIP_NAMED,
    LLAMA,
    RopeConfig,
    TextConfig,
    VisionConfig,
)
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Source, read_table, read_value, shown
from recap_fast.generate.json_file import read_json
from recap_fast.generate.layout import FusedTensor, plan_weights
from recap_fast.generate.spec import RopeSpec, TextSpec, TokenId, VisionSpec

READS = "recap-fast reads LLaVA-1.5: a CLIP vision tower, a two-layer GELU projector, a Llama language model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shapes of a checkpoint's model."""

    vision: VisionSpec
    """The part of the tower that runs: `vision.num_layers` of `num_vision_layers`."""
    text: TextSpec
    """With `tied_head` as in the config."""
    num_vision_layers: int
    """Layers of the vision tower in the checkpoint."""
    projector_bias: bool
    eos_ids: tuple[int, ...]
    """The stop ids of config.json; empty where it names none."""
    preprocess_mode: Literal["pad", "crop"] | None
    """'pad' or 'crop' where config.json says so (the original LLaVA's does)."""

    def plan(self) -> list[FusedTensor]:
        return plan_weights(self.vision, self.text, projector_bias=self.projector_bias)


def read_architecture(folder: Path) -> Architecture:
    """Reads `config.json`. Raises ConfigError, with what was found, for a model that recap-fast does not run."""
    path = folder / "config.json"
    config = read_json(path)
    kind = config.get("model_type")
    if config.get("quantization_config"):
        raise ConfigError(f"{path}: the weights are quantized. Give the checkpoint that they were made from.")
    if kind == "llava_llama" or (kind == "llava" and "mm_vision_tower" in config):
        return _from_original(path, config)
    if kind == "llava":
        return _from_transformers(path, config)
    found = config.get("architectures")
    names = ", ".join(map(str, found)) if isinstance(found, list) and found else "no architecture named"
    raise ConfigError(f"{path}: model_type {shown(kind)} ({names}) is not supported. {READS}.")


def _from_transformers(path: Path, config: Mapping[str, Any]) -> Architecture:
    text, vision = _table(path, config, "text_config") or {}, _table(path, config, "vision_config")
    _expect(path, text, "text_config.model_type", {"llama": "a Llama language model"}, default="llama")
    vision = {"model_type": "clip_vision_model", **CLIP_LARGE} if vision is None else vision
    _expect(path, vision, "vision_config.model_type", CLIP, default="clip_vision_model")
    _expect(path, config, "projector_hidden_act", {"gelu": "GELU"}, default="gelu")
    _expect(path, config, "vision_feature_select_strategy", {"default": "patches without CLS"}, default="default")
    _expect(path, config, "tie_word_embeddings", {True: "", False: "", None: ""}, default=None)
    if config.get("tie_word_embeddings"):
        text = {**text, "tie_word_embeddings": True}
    tower = _read_vision(path, {**CLIP_BASE, **vision}, "vision_config")
    return Architecture(
        vision=_vision(path, {**CLIP_BASE, **vision}, tower, config.get("vision_feature_layer", -2)),
        text=_text(path, text, "text_config"),
        num_vision_layers=tower.num_hidden_layers,
        projector_bias=read_value(
            Source(path), bool, "multimodal_projector_bias", config.get("multimodal_projector_bias", True)
        ),
        eos_ids=read_ids(path, text.get("eos_token_id", config.get("eos_token_id"))),
        preprocess_mode=None,
    )


def _from_original(path: Path, config: Mapping[str, Any]) -> Architecture:
    _expect(path, config, "mm_projector_type", {"mlp2x_gelu": "two layers with GELU"}, default="linear")
    _expect(path, config, "mm_vision_select_feature", {"patch": "patches without CLS"}, default="patch")
    _expect(path, config, "mm_patch_merge_type", {"flat": "one image, no tiles"}, default="flat")
    _expect(path, config, "mm_use_im_start_end", {False: "no tokens around the image"}, default=False)
    ratio = config.get("image_aspect_ratio")
    if ratio not in (None, "pad", "square"):
        raise ConfigError(
            f"{path}: image_aspect_ratio {shown(ratio)} is not supported, expected 'pad'. {READS}, without tiles."
        )
    file, vision = _named_tower(path, config.get("mm_vision_tower") or config.get("vision_tower"))
    tower = _read_vision(file, vision, "")
    return Architecture(
        vision=_vision(file, vision, tower, config.get("mm_vision_select_layer", -2)),
        text=_text(path, config, ""),
        num_vision_layers=tower.num_hidden_layers,
        projector_bias=True,
        eos_ids=read_ids(path, config.get("eos_token_id")),
        preprocess_mode="pad" if ratio == "pad" else "crop",
    )


def _named_tower(path: Path, name: Any) -> tuple[Path, dict[str, Any]]:
    """The CLIP that `mm_vision_tower` names, and the file that says so: one of OpenAI's, or a folder's config.json."""
    if name is None:
        raise ConfigError(f"{path} names no mm_vision_tower. {READS}.")
    name = read_value(Source(path), str, "mm_vision_tower", name)
    tower = path.parent / name / "config.json"
    is_folder = False
    with contextlib.suppress(OSError):  # a name too long for a file
        is_folder = tower.is_file()
    if is_folder:
        config = read_json(tower)
        config = _table(tower, config, "vision_config") or config
        _expect(tower, config, "model_type", CLIP, default="clip_vision_model")
        return tower, {**CLIP_BASE, **config}
    known = CLIP_NAMED.get(name.rstrip("/").rsplit("/", 1)[-1])
    if known is None:
        raise ConfigError(
            f"{path}: mm_vision_tower {name!r} is not known. {READS}; known towers: {', '.join(CLIP_NAMED)}, "
            "or a folder with the tower's config.json."
        )
    return path, dict(known)


def _table(path: Path, config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """A table in a config; None where it has none."""
    table: dict[str, Any] | None = read_value(Source(path), dict[str, Any] | None, name, config.get(name))
    return table


def _read_vision(path: Path, config: Mapping[str, Any], table: str) -> VisionConfig:
    return read_table(Source(path, passes_unknown=True), VisionConfig, config, table)


def _vision(path: Path, config: Mapping[str, Any], tower: VisionConfig, layer: Any) -> VisionSpec:
    if isinstance(layer, list) and len(layer) == 1:
        layer = layer[0]
    total = tower.num_hidden_layers
    # layer k is hidden_states[k], of which there are one more than layers: the first is the embedding
    num_layers = layer + total + 1 if type(layer) is int and layer < 0 else layer
    if type(num_layers) is not int or not 1 <= num_layers <= total:
        raise ConfigError(
            f"{path}: vision layer {shown(layer)} is not supported, expected one of 1..{total} or -{total}..-1."
        )
    _expect(path, config, "num_channels", {3: "RGB"}, default=3)
    _expect_divisible(path, "image_size", tower.image_size, tower.patch_size)
    _expect_divisible(path, "hidden_size", tower.hidden_size, tower.num_attention_heads)
    return VisionSpec(
        hidden_size=tower.hidden_size,
        intermediate_size=tower.intermediate_size,
        num_layers=num_layers,
        num_heads=tower.num_attention_heads,
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        activation=tower.hidden_act,
        norm_eps=tower.layer_norm_eps,
    )


def _text(path: Path, given: Mapping[str, Any], table: str) -> TextSpec:
    _expect(path, given, "hidden_act", {"silu": "SwiGLU"}, default="silu")
    for name in ("attention_bias", "mlp_bias"):
        _expect(path, given, name, {False: "Llama's layers without biases"}, default=False)
    config = read_table(Source(path, passes_unknown=True), TextConfig, {**LLAMA, **given}, table)
    heads = config.num_attention_heads
    kv_heads = config.num_key_value_heads or heads
    if config.head_dim is None:
        _expect_divisible(path, "hidden_size", config.hidden_size, heads)
    _expect_divisible(path, "num_attention_heads", heads, kv_heads)
    head_dim = config.head_dim or config.hidden_size // heads
    _expect_divisible(path, "the width of a head", head_dim, 2)
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


def read_ids(path: Path, value: Any) -> tuple[int, ...]:
    """An `eos_token_id`, which is an id, a list of ids or nothing. Raises ConfigError for anything else."""
    given = [] if value is None else value if isinstance(value, list) else [value]
    ids: tuple[int, ...] = read_value(Source(path), tuple[TokenId, ...], "eos_token_id", given)
    return ids


def _expect(path: Path, config: Mapping[str, Any], name: str, known: Mapping[Any, str], *, default: Any) -> None:
    """Refuses a value that is not among the known ones; `name` may lead with the table that `config` is."""
    value = config.get(name.rsplit(".", 1)[-1], default)
    if not any(type(value) is type(k) and value == k for k in known):
        wanted = " or ".join(f"{k!r} ({why})" if why else repr(k) for k, why in known.items())
        raise ConfigError(f"{path}: {name} {shown(value)} is not supported, expected {wanted}. {READS}.")


def _expect_divisible(path: Path, name: str, value: int, divisor: int) -> None:
    if value % divisor:
        raise ConfigError(f"{path}: {name} {value} is not a multiple of {divisor}.")
