"""The keys that are read from the configs of Llama and CLIP, their ranges, and the defaults of those left out."""

from dataclasses import dataclass
from typing import Literal

from recap_fast.generate.spec import Epsilon, Number, Positions, Ratio, Side, VocabularySize, Width

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
class TextConfig:
    """The keys that are read from Llama's config."""

    vocab_size: VocabularySize
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Number
    num_attention_heads: Number
    num_key_value_heads: Number | None = None
    head_dim: Number | None = None
    max_position_embeddings: Positions
    rms_norm_eps: Epsilon
    rope_theta: Ratio | None = None
    tie_word_embeddings: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """The keys that are read from `rope_parameters` or `rope_scaling`."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Ratio | None = None
    factor: Ratio | None = None
    low_freq_factor: Ratio | None = None
    high_freq_factor: Ratio | None = None
    original_max_position_embeddings: Positions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """The keys that are read from CLIP's config."""

    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Number
    num_attention_heads: Number
    image_size: Side
    patch_size: Side
    layer_norm_eps: Epsilon
    hidden_act: Literal["quick_gelu", "gelu"]
