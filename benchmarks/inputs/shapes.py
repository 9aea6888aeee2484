"""The models that benchmarks and tests run, as shapes: LLaVA-1.5 of several sizes and kinds, in our words and in
transformers'."""

from dataclasses import dataclass, replace
from typing import Any

from recap_fast.generate.model_spec import RopeSpec, TextSpec, VisionSpec
from recap_fast.generate.spec import EngineSpec, Limits, PromptSpec
from recap_fast.records import Preprocess

LLAMA3 = {"max_positions": 8192, "norm_eps": 1e-5, "tied_head": False, "rope": RopeSpec(theta=500000.0)}


LLAMA31 = {"max_positions": 131072, "rope": RopeSpec(theta=500000.0, factor=8.0)}
SIGLIP = {
    "activation": "gelu_tanh",
    "norm_eps": 1e-6,
    "has_class_token": False,
    "has_pre_norm": False,
    "has_patch_bias": True,
    "select": "full",
}
"""What a tower has of SigLIP, read as JoyCaption reads it: all patches."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One size."""

    vision: VisionSpec
    """The layers that run: a checkpoint has one more."""
    text: TextSpec


def _vision(
    hidden_size: int, intermediate_size: int, layers: tuple[int, int], image_size: int, patch_size: int, **more: Any
) -> VisionSpec:
    """`layers` are their number and that of the heads of each."""
    return VisionSpec(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=layers[0],
        num_heads=layers[1],
        image_size=image_size,
        patch_size=patch_size,
        **{"activation": "quick_gelu", "norm_eps": 1e-5, **more},
    )


def _text(
    hidden_size: int, intermediate_size: int, num_layers: int, heads: tuple[int, int], vocab_size: int, **more: Any
) -> TextSpec:
    return TextSpec(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=num_layers,
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=hidden_size // heads[0],
        vocab_size=vocab_size,
        **{**LLAMA3, **more},
    )


_TEXT_TINY = _text(64, 160, 2, (4, 2), 640, max_positions=1024, rope=RopeSpec(theta=10000.0))
_TEXT_6M, _TEXT_55M = (
    _text(width, inner, layers, (8, 4), vocab_size, max_positions=2048)
    for width, inner, layers, vocab_size in ((256, 688, 4, 4096), (512, 1536, 8, 16384))
)
SHAPES = {
    # 16 image tokens: shows in seconds, on any machine, that something runs
    "tiny": Shape(_vision(48, 96, (3, 3), 32, 8), _TEXT_TINY),
    # 64 image tokens, about 6 M parameters
    "6m": Shape(_vision(128, 512, (4, 4), 112, 14), _TEXT_6M),
    # 196 image tokens, about 55 M parameters
    "55m": Shape(_vision(384, 1536, (8, 6), 224, 16), _TEXT_55M),
    # LLaVA-LLaMA3-8B: 576 image tokens, 16.7 GB in bfloat16
    "8b": Shape(_vision(1024, 4096, (23, 16), 336, 14), _text(4096, 14336, 32, (32, 8), 128320)),
    # JoyCaption's SigLIP, with its heads of 72 and sides that are no multiple of the patch, at the sizes above
    "siglip-tiny": Shape(_vision(144, 266, (2, 2), 30, 8, **SIGLIP), _TEXT_TINY),
    "siglip-6m": Shape(_vision(144, 538, (4, 2), 117, 14, **SIGLIP), _TEXT_6M),
    "siglip-55m": Shape(_vision(432, 1614, (8, 6), 230, 16, **SIGLIP), _TEXT_55M),
    # CLIP, and a decoder as Qwen3's
    "qwen-6m": Shape(_vision(128, 512, (4, 4), 112, 14), replace(_TEXT_6M, qk_norm=True)),
    # JoyCaption beta-one: 729 image tokens, 17.0 GB in bfloat16
    "joycaption": Shape(
        _vision(1152, 4304, (26, 16), 384, 14, **SIGLIP), _text(4096, 14336, 32, (32, 8), 128256, **LLAMA31)
    ),
}
RECIPES = {
    "8b": {"bfloat16": "llava_llama3_8b", "fp8": "llava_llama3_8b_fp8", "int8": "llava_llama3_8b_int8"},
    "joycaption": {"bfloat16": "joycaption", "fp8": "joycaption_fp8", "int8": "joycaption_int8"},
}
"""Of engines of a size that have recipes which know the card, by precision."""


def llama_fields(text: TextSpec) -> dict[str, Any]:
    """A language model as transformers' LlamaConfig takes it; with a `model_type` where it is another decoder's."""
    rope = text.rope
    fields = {
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_layers,
        "num_attention_heads": text.num_heads,
        "num_key_value_heads": text.num_kv_heads,
        "max_position_embeddings": text.max_positions,
        "rms_norm_eps": text.norm_eps,
        "rope_theta": rope.theta,
        "tie_word_embeddings": text.tied_head,
    }
    if rope.factor is not None:
        fields["rope_parameters"] = {
            "rope_type": "llama3",
            "rope_theta": rope.theta,
            "factor": rope.factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_max_positions,
        }
    return {**fields, "model_type": "qwen3", "head_dim": text.head_dim} if text.qk_norm else fields


def clip_fields(vision: VisionSpec) -> dict[str, Any]:
    """A vision tower as transformers' CLIPVisionConfig takes it, with the layer that does not run; with a `model_type`
    where it is SigLIP's."""
    fields = {
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_layers + 1,
        "num_attention_heads": vision.num_heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
    }
    if vision.has_class_token:
        return {**fields, "projection_dim": vision.hidden_size}
    return {**fields, "model_type": "siglip_vision_model"}


def llava_llama3_8b(**changed: Any) -> EngineSpec:
    """An engine of the 8b size in bfloat16 that nobody has built; `changed` are fields of EngineSpec."""
    given = {
        "name": "llava-llama3-8b",
        "backend": "torch",
        "precision": "bfloat16",
        "vision": SHAPES["8b"].vision,
        "text": SHAPES["8b"].text,
        "preprocess": Preprocess(336, "pad", (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)),
        "prompt": PromptSpec(template="llama3", text="Describe the image."),
        "stop_ids": (128001, 128009),
        "limits": Limits(max_new_tokens=128, max_text_tokens=24, num_slots=448, prefill_images=8),
    }
    return EngineSpec(**{**given, **changed})
