"""Reads what a checkpoint's config.json says about its model, as an `Architecture`.

It knows the original LLaVA's config (`llava_llama`, `llava_mistral`, `llava_qwen`) and transformers' (`llava`, versions
4 and 5), which leave out what equals their defaults. Anything but LLaVA-1.5 (CLIP or SigLIP, a projector of two layers
with GELU, Llama or a decoder that differs by little) is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recap_fast.build.config_checks import READS, expect, read_optional_table
from recap_fast.build.decoder_config import make_text
from recap_fast.build.model_config import CLIP, CLIP_LARGE, DECODERS
from recap_fast.build.preprocessing import Family
from recap_fast.build.tower_config import complete_tower, count_layers, make_vision, named_tower, read_tower
from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Source, read_value, shown
from recap_fast.generate.json_file import read_json
from recap_fast.generate.layout import FusedTensor, plan_weights
from recap_fast.generate.model_spec import TextSpec, TokenId, VisionSpec

STRATEGIES = {"default": "without the first position", "full": "all positions"}
ORIGINALS = {
    "llava_llama": "llama",
    "llava_mistral": "mistral",
    "llava_qwen": "qwen2",
    "llava_qwen2": "qwen2",
    "llava_qwen3": "qwen3",
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
    "LlavaQwen2ForCausalLM": "qwen2",
    "LlavaQwen3ForCausalLM": "qwen3",
}
"""Decoders of the original LLaVA and of those that built on it, by model_type and by architecture."""


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
    preprocess_mode: Literal["pad", "crop", "stretch"] | None
    """Where config.json says it (the original LLaVA's does)."""
    family: Family
    """Whose preprocessing holds where the folder has no file that says it."""

    def plan(self) -> list[FusedTensor]:
        return plan_weights(self.vision, self.text, projector_bias=self.projector_bias)


def read_architecture(folder: Path) -> Architecture:
    """Reads `config.json`. Raises ConfigError, with what was found, for a model that recap-fast does not run."""
    path = folder / "config.json"
    config = read_json(path)
    kind = config.get("model_type")
    if config.get("quantization_config"):
        raise ConfigError(
            f"{path} has a quantization_config: its weights are quantized. Give the checkpoint that they come from."
        )
    found = config.get("architectures")
    architectures = list(map(str, found)) if isinstance(found, list) else []
    if str(kind) in ORIGINALS or (kind == "llava" and "mm_vision_tower" in config):
        # LLaVA on Qwen may call itself llava or llava_llama: the architecture comes first
        names = [name for name in (*architectures, str(kind)) if name in ORIGINALS]
        return _from_original(path, config, ORIGINALS[names[0]] if names else "llama")
    if kind == "llava":
        return _from_transformers(path, config)
    found = ", ".join(architectures) or "no architecture named"
    raise ConfigError(f"{path}: model_type {shown(kind)} ({found}) is not supported. {READS}.")


def _from_transformers(path: Path, config: Mapping[str, Any]) -> Architecture:
    text, vision = (
        read_optional_table(path, config, "text_config") or {},
        read_optional_table(path, config, "vision_config"),
    )
    decoder = text.get("model_type", "llama")
    expect(path, text, "text_config.model_type", dict.fromkeys(DECODERS, ""), default="llama")
    vision = complete_tower(path, CLIP_LARGE if vision is None else vision, "vision_config")
    expect(path, config, "projector_hidden_act", {"gelu": "GELU"}, default="gelu")
    expect(path, config, "vision_feature_select_strategy", STRATEGIES, default="default")
    expect(path, config, "tie_word_embeddings", {True: "", False: "", None: ""}, default=None)
    if config.get("tie_word_embeddings"):
        text = {**text, "tie_word_embeddings": True}
    tower = read_tower(path, vision, "vision_config")
    eos_ids = config.get("eos_token_id")  # before those of text_config, as transformers has it
    select = config.get("vision_feature_select_strategy", "default")
    return Architecture(
        vision=make_vision(path, vision, tower, count_layers(path, config, "vision_feature_layer", tower), select),
        text=make_text(path, text, "text_config", decoder),
        num_vision_layers=tower.num_hidden_layers,
        projector_bias=read_value(
            Source(path), bool, "multimodal_projector_bias", config.get("multimodal_projector_bias", True)
        ),
        eos_ids=read_ids(path, text.get("eos_token_id") if eos_ids is None else eos_ids),
        preprocess_mode=None,
        family="clip" if vision["model_type"] == CLIP else "siglip",
    )


def _from_original(path: Path, config: Mapping[str, Any], decoder: str) -> Architecture:
    if decoder in ("mistral", "qwen2"):
        config = {**config, "rope_scaling": None}  # as LlavaMistralForCausalLM and LlavaQwenForCausalLM set it
    expect(path, config, "mm_projector_type", {"mlp2x_gelu": "two layers with GELU"}, default="linear")
    expect(path, config, "mm_vision_select_feature", {"patch": "", "cls_patch": "CLS as well"}, default="patch")
    expect(path, config, "s2", {False: "one scale"}, default=False)
    expect(path, config, "mm_patch_merge_type", {"flat": "one image, no tiles"}, default="flat")
    expect(path, config, "mm_use_im_start_end", {False: "no tokens around the image"}, default=False)
    ratio = config.get("image_aspect_ratio")
    if ratio not in (None, "pad", "square"):
        raise ConfigError(
            f"{path}: image_aspect_ratio {shown(ratio)} is not supported, expected 'pad'. {READS}, without tiles."
        )
    name = config.get("mm_vision_tower") or config.get("vision_tower")
    file, vision = named_tower(path, name)
    tower = read_tower(file, vision, "")
    is_clip = vision["model_type"] == CLIP
    if not is_clip:
        # LLaVA-MORE reads this layer, LLaVA-NeXT the last but one whatever is said; both read all patches
        expect(path, config, "mm_vision_select_layer", {-2: "the last but one"}, default=-2)
    drops_first = is_clip and config.get("mm_vision_select_feature", "patch") == "patch"
    num_layers = count_layers(path, config, "mm_vision_select_layer", tower)
    return Architecture(
        vision=make_vision(file, vision, tower, num_layers, "default" if drops_first else "full"),
        text=make_text(path, config, "", decoder),
        num_vision_layers=tower.num_hidden_layers,
        projector_bias=True,
        eos_ids=read_ids(path, config.get("eos_token_id")),
        preprocess_mode="pad" if ratio == "pad" else "crop" if is_clip else "stretch",
        family="clip" if is_clip else "siglip2" if "siglip2" in str(name) else "siglip",
    )


def read_ids(path: Path, value: Any) -> tuple[int, ...]:
    """An `eos_token_id`, which is an id, a list of ids or nothing. Raises ConfigError for anything else."""
    given = [] if value is None else value if isinstance(value, list) else [value]
    ids: tuple[int, ...] = read_value(Source(path), tuple[TokenId, ...], "eos_token_id", given)
    return ids
