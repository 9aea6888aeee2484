"""The keys that are read from the configs of decoders and towers, their ranges, and the defaults of those left out."""

import re
from dataclasses import dataclass
from typing import Literal

from recap_fast.generate.model_spec import Epsilon, Number, Positions, Ratio, Side, VocabularySize, Width

# Defaults: transformers' LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, CLIPVisionConfig and SiglipVisionConfig,
# and LlavaConfig where it has no vision_config at all.
LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
MISTRAL = {
    **LLAMA,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
QWEN2 = {
    **LLAMA,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
}
QWEN3 = {**QWEN2, "head_dim": 128}
DECODERS = {"llama": LLAMA, "mistral": MISTRAL, "qwen2": QWEN2, "qwen3": QWEN3}
"""Defaults of each kind of decoder, by transformers' model_type."""
CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"
TOWERS = {CLIP: "a CLIP vision tower", SIGLIP: "a SigLIP vision tower"}
CLIP_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
    "model_type": CLIP,
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
SIGLIP_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
    "model_type": SIGLIP,
}
_SIGLIP_SIZES = {
    "base": (768, 3072, 12, 12),
    "large": (1024, 4096, 24, 16),
    "so400m": (1152, 4304, 27, 16),
    "giant-opt": (1536, 6144, 40, 16),
}
"""Width, inner width, layers and heads."""
_SIGLIP_NAMES = (
    *(f"siglip-base-patch16-{side}" for side in ("224", "256", "384", "512", "256-multilingual")),
    *(f"siglip-large-patch16-{side}" for side in (256, 384)),
    *("siglip-so400m-patch14-224", "siglip-so400m-patch14-384", "siglip-so400m-patch16-256-i18n"),
    "siglip2-base-patch32-256",
    *(f"siglip2-base-patch16-{side}" for side in (224, 256, 384, 512)),
    *(f"siglip2-large-patch16-{side}" for side in (256, 384, 512)),
    *(f"siglip2-so400m-patch14-{side}" for side in (224, 384)),
    *(f"siglip2-so400m-patch16-{side}" for side in (256, 384, 512)),
    *(f"siglip2-giant-opt-patch16-{side}" for side in (256, 384)),
)


def _siglip_of(name: str) -> dict[str, object]:
    """The config of one of Google's towers of a fixed size: their names say all."""
    parts = re.match(r"siglip2?-(.+)-patch(\d+)-(\d+)", name)
    assert parts, name
    width, inner, layers, heads = _SIGLIP_SIZES[parts[1]]
    return {
        **SIGLIP_BASE,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": int(parts[3]),
        "patch_size": int(parts[2]),
    }


NAMED = {**CLIP_NAMED, **{name: _siglip_of(name) for name in _SIGLIP_NAMES}}
"""The towers, OpenAI's and Google's, which an original LLaVA checkpoint may only name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """The keys that are read from a decoder's config."""

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
    original_max_position_embeddings: Positions | None = None
    partial_rotary_factor: Ratio | None = None
    sliding_window: Positions | None = None
    use_sliding_window: bool = False
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
    beta_fast: Ratio | None = None
    beta_slow: Ratio | None = None
    truncate: bool = True
    attention_factor: Ratio | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    partial_rotary_factor: Ratio | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """The keys that are read from CLIP's config, and from SigLIP's."""

    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Number
    num_attention_heads: Number
    image_size: Side
    patch_size: Side
    layer_norm_eps: Epsilon
    hidden_act: Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"]
