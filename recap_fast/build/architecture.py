"""What a checkpoint's config.json says of its model, as an `Architecture`.

Reads the original LLaVA's config (`llava_llama`) and transformers' (`llava`, versions 4 and 5), which leave out what
equals their defaults. Anything but LLaVA-1.5 (CLIP, a projector of two layers with GELU, Llama) is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recap_fast.errors import ConfigError
from recap_fast.generate.json_file import read_json
from recap_fast.generate.layout import FusedTensor, plan_weights
from recap_fast.generate.spec import RopeSpec, TextSpec, VisionSpec

READS = "recap-fast reads LLaVA-1.5: a CLIP vision tower, a two-layer GELU projector, a Llama language model"

# Defaults: transformers' LlamaConfig, CLIPVisionConfig, and LlavaConfig where it has no vision_config at all.
LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
CLIP = {"clip_vision_model": "a CLIP vision tower"}
CLIP_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
}
CLIP_LARGE = {
    **CLIP_BASE,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
CLIP_NAMED = {
    "clip-vit-large-patch14-336": CLIP_LARGE,
    "clip-vit-large-patch14": {**CLIP_LARGE, "image_size": 224},
    "clip-vit-base-patch16": {**CLIP_BASE, "patch_size": 16},
    "clip-vit-base-patch32": CLIP_BASE,
}
"""OpenAI's towers, which an original LLaVA checkpoint only names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shapes of a checkpoint's model."""

    vision: VisionSpec
    """As far as it runs: `vision.num_layers` of `num_vision_layers`."""
    text: TextSpec
    """`tied_head` as the config has it."""
    num_vision_layers: int
    """Layers in the checkpoint."""
    projector_bias: bool
    eos_ids: tuple[int, ...]
    """The stop ids of config.json; empty where it names none."""
    preprocess_mode: Literal["pad", "crop"] | None
    """'pad' or 'crop' where config.json says so (the original LLaVA's does)."""

    def plan(self) -> list[FusedTensor]:
        return plan_weights(self.vision, self.text, projector_bias=self.projector_bias)


def read_architecture(folder: Path) -> Architecture:
    """Reads `config.json`. Raises ConfigError where the model is none that recap-fast runs, with what was found."""
    path = folder / "config.json"
    config = read_json(path)
    kind = config.get("model_type")
    if config.get("quantization_config"):
        raise ConfigError(f"{path}: the weights are quantized; give the checkpoint that they were made from.")
    if kind == "llava_llama" or (kind == "llava" and "mm_vision_tower" in config):
        return _from_original(path, config)
    if kind == "llava":
        return _from_transformers(path, config)
    names = ", ".join(config.get("architectures") or []) or "no architecture named"
    raise ConfigError(f"{path}: model_type {kind!r} ({names}) is not supported. {READS}.")


def _from_transformers(path: Path, config: Mapping[str, Any]) -> Architecture:
    text, vision = config.get("text_config") or {}, config.get("vision_config")
    _expect(path, text, "text_config.model_type", {"llama": "a Llama language model"}, default="llama")
    vision = {"model_type": "clip_vision_model", **CLIP_LARGE} if vision is None else vision
    _expect(path, vision, "vision_config.model_type", CLIP, default="clip_vision_model")
    _expect(path, config, "projector_hidden_act", {"gelu": "GELU"}, default="gelu")
    _expect(path, config, "vision_feature_select_strategy", {"default": "patches without CLS"}, default="default")
    if config.get("tie_word_embeddings"):
        text = {**text, "tie_word_embeddings": True}
    return Architecture(
        vision=_vision(path, {**CLIP_BASE, **vision}, config.get("vision_feature_layer", -2)),
        text=_text(path, text),
        num_vision_layers=vision.get("num_hidden_layers", CLIP_BASE["num_hidden_layers"]),
        projector_bias=config.get("multimodal_projector_bias", True),
        eos_ids=read_ids(text.get("eos_token_id", config.get("eos_token_id"))),
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
            f"{path}: image_aspect_ratio {ratio!r} is not supported, expected 'pad'. {READS}, without tiles."
        )
    vision = _named_tower(path, config.get("mm_vision_tower") or config.get("vision_tower"))
    return Architecture(
        vision=_vision(path, vision, config.get("mm_vision_select_layer", -2)),
        text=_text(path, config),
        num_vision_layers=vision["num_hidden_layers"],
        projector_bias=True,
        eos_ids=read_ids(config.get("eos_token_id")),
        preprocess_mode="pad" if ratio == "pad" else "crop",
    )


def _named_tower(path: Path, name: str | None) -> dict[str, Any]:
    """The CLIP that `mm_vision_tower` names: one of OpenAI's, or a folder with a config.json."""
    if name is None:
        raise ConfigError(f"{path} names no mm_vision_tower. {READS}.")
    tower = path.parent / name / "config.json"
    if tower.is_file():
        config = read_json(tower)
        config = config.get("vision_config", config)
        _expect(tower, config, "model_type", CLIP, default="clip_vision_model")
        return {**CLIP_BASE, **config}
    known = CLIP_NAMED.get(name.rstrip("/").rsplit("/", 1)[-1])
    if known is None:
        raise ConfigError(
            f"{path}: mm_vision_tower {name!r} is not known. {READS}; known towers: {', '.join(CLIP_NAMED)}, "
            "or a folder with the tower's config.json."
        )
    return dict(known)


def _vision(path: Path, config: Mapping[str, Any], layer: Any) -> VisionSpec:
    if isinstance(layer, list) and len(layer) == 1:
        layer = layer[0]
    total = config["num_hidden_layers"]
    # layer k is hidden_states[k], of which there are one more than layers: the first is the embedding
    num_layers = layer + total + 1 if isinstance(layer, int) and layer < 0 else layer
    if not isinstance(num_layers, int) or not 1 <= num_layers <= total:
        raise ConfigError(
            f"{path}: vision layer {layer!r} is not supported, expected one of 1..{total} or -{total}..-1."
        )
    _expect(path, config, "hidden_act", {"quick_gelu": "", "gelu": ""}, default="quick_gelu")
    _expect(path, config, "num_channels", {3: "RGB"}, default=3)
    _expect_divisible(path, config, "image_size", config["patch_size"])
    _expect_divisible(path, config, "hidden_size", config["num_attention_heads"])
    return VisionSpec(
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=num_layers,
        num_heads=config["num_attention_heads"],
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        activation=config["hidden_act"],
        norm_eps=config["layer_norm_eps"],
    )


def _text(path: Path, given: Mapping[str, Any]) -> TextSpec:
    config = {**LLAMA, **given}
    _expect(path, config, "hidden_act", {"silu": "SwiGLU"}, default="silu")
    for name in ("attention_bias", "mlp_bias"):
        _expect(path, config, name, {False: "Llama's layers without biases"}, default=False)
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    if not config.get("head_dim"):
        _expect_divisible(path, config, "hidden_size", heads)
    _expect_divisible(path, config, "num_attention_heads", kv_heads)
    return TextSpec(
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab_size=config["vocab_size"],
        max_positions=config["max_position_embeddings"],
        norm_eps=config["rms_norm_eps"],
        tied_head=bool(config.get("tie_word_embeddings")),
        rope=_rope(path, config),
    )


def _rope(path: Path, config: Mapping[str, Any]) -> RopeSpec:
    """`rope_parameters` of transformers 5, else `rope_theta` and `rope_scaling` of 4."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    if kind == "default":
        return RopeSpec(theta=theta)
    if kind != "llama3":
        raise ConfigError(f"{path}: rope_type {kind!r} is not supported, expected 'default' or 'llama3' (Llama 3.1).")
    try:
        return RopeSpec(
            theta=theta,
            factor=rope["factor"],
            low_freq_factor=rope["low_freq_factor"],
            high_freq_factor=rope["high_freq_factor"],
            original_max_positions=rope["original_max_position_embeddings"],
        )
    except KeyError as error:
        raise ConfigError(f"{path}: rope_type 'llama3' lacks {error}.") from error


def read_ids(value: Any) -> tuple[int, ...]:
    """An `eos_token_id`, which is an id, a list of ids or nothing."""
    return tuple(value) if isinstance(value, list) else () if value is None else (value,)


def _expect(path: Path, config: Mapping[str, Any], name: str, known: Mapping[Any, str], *, default: Any) -> None:
    """Refuses a value that is not among the known ones; `name` may lead with the table that `config` is."""
    value = config.get(name.rsplit(".", 1)[-1], default)
    if value not in known:
        wanted = " or ".join(f"{k!r} ({why})" if why else repr(k) for k, why in known.items())
        raise ConfigError(f"{path}: {name} {value!r} is not supported, expected {wanted}. {READS}.")


def _expect_divisible(path: Path, config: Mapping[str, Any], name: str, divisor: int) -> None:
    if config[name] % divisor:
        raise ConfigError(f"{path}: {name} {config[name]} is not a multiple of {divisor}.")
