"""The models that benchmarks and tests run, as shapes: LLaVA-1.5 of four sizes, in our words and in transformers'."""

from dataclasses import dataclass
from typing import Any

from recap_fast.generate.spec import EngineSpec, Limits, PromptSpec, RopeSpec, TextSpec, VisionSpec
from recap_fast.records import Preprocess

LLAMA3 = {"max_positions": 8192, "norm_eps": 1e-5, "tied_head": False, "rope": RopeSpec(theta=500000.0)}


@dataclass(frozen=True, slots=True)
class Shape:
    """One size."""

    vision: VisionSpec
    """The layers that run: a checkpoint has one more."""
    text: TextSpec


def _vision(
    hidden_size: int, intermediate_size: int, num_layers: int, num_heads: int, image_size: int, patch_size: int
) -> VisionSpec:
    return VisionSpec(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=num_layers,
        num_heads=num_heads,
        image_size=image_size,
        patch_size=patch_size,
        activation="quick_gelu",
        norm_eps=1e-5,
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


SHAPES = {
    # 16 image tokens: shows in seconds, on any machine, that something runs
    "tiny": Shape(
        _vision(48, 96, 3, 3, 32, 8), _text(64, 160, 2, (4, 2), 640, max_positions=1024, rope=RopeSpec(theta=10000.0))
    ),
    # 64 image tokens, about 6 M parameters
    "6m": Shape(_vision(128, 512, 4, 4, 112, 14), _text(256, 688, 4, (8, 4), 4096, max_positions=2048)),
    # 196 image tokens, about 55 M parameters
    "55m": Shape(_vision(384, 1536, 8, 6, 224, 16), _text(512, 1536, 8, (8, 4), 16384, max_positions=2048)),
    # LLaVA-LLaMA3-8B: 576 image tokens, 16.7 GB in bfloat16
    "8b": Shape(_vision(1024, 4096, 23, 16, 336, 14), _text(4096, 14336, 32, (32, 8), 128320)),
}
RECIPES = {"bfloat16": "llava_llama3_8b", "fp8": "llava_llama3_8b_fp8", "int8": "llava_llama3_8b_int8"}
"""Of engines of the 8b size, by precision: they know the card."""


def llama_fields(text: TextSpec) -> dict[str, Any]:
    """A language model as transformers' LlamaConfig takes it."""
    return {
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_layers,
        "num_attention_heads": text.num_heads,
        "num_key_value_heads": text.num_kv_heads,
        "max_position_embeddings": text.max_positions,
        "rms_norm_eps": text.norm_eps,
        "rope_theta": text.rope.theta,
        "tie_word_embeddings": text.tied_head,
    }


def clip_fields(vision: VisionSpec) -> dict[str, Any]:
    """A vision tower as transformers' CLIPVisionConfig takes it, with the layer that does not run."""
    return {
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_layers + 1,
        "num_attention_heads": vision.num_heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "projection_dim": vision.hidden_size,
    }


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
