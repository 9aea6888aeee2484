"""Descriptions of engines that are too large to build in a test."""

from typing import Any

from recap_fast.generate.spec import EngineSpec, Limits, PromptSpec, RopeSpec, TextSpec, VisionSpec
from recap_fast.records import Preprocess


def llava_llama3_8b(**changed: Any) -> EngineSpec:
    """LLaVA-1.5 on LLaMA-3-8B with CLIP-L at 336 pixels, in bfloat16; `changed` are fields of EngineSpec."""
    vision = VisionSpec(
        hidden_size=1024,
        intermediate_size=4096,
        num_layers=23,
        num_heads=16,
        image_size=336,
        patch_size=14,
        activation="quick_gelu",
        norm_eps=1e-5,
    )
    text = TextSpec(
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=128320,
        max_positions=8192,
        norm_eps=1e-5,
        tied_head=False,
        rope=RopeSpec(theta=500000.0),
    )
    given = {
        "name": "llava-llama3-8b",
        "backend": "torch",
        "precision": "bfloat16",
        "vision": vision,
        "text": text,
        "preprocess": Preprocess(336, "pad", (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)),
        "prompt": PromptSpec(template="llama3", text="Describe the image."),
        "stop_ids": (128001, 128009),
        "limits": Limits(max_new_tokens=128, max_text_tokens=24, num_slots=448, prefill_images=8),
    }
    return EngineSpec(**{**given, **changed})
