"""What is compared unless the command line says otherwise: small models on a CPU, or the real size on a GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from contest.contest import Ways


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One kind of contest."""

    options: Mapping[str, Any]
    """Of the command line, by name."""
    image_sizes: Sequence[tuple[int, int]]
    """Width and height in pixels of the photographs, in turn."""
    reference: str
    """The precision in which recap-fast makes the captions that all others are measured by, and models are made."""
    ways: Mapping[str, Ways] = field(default_factory=dict)
    mode: str | None = "crop"
    """How images of made-up models are preprocessed; None leaves it to the checkpoint."""


_CPU = Preset(
    options={
        "device": "cpu",
        "size": ["6m"],
        "precision": ["float32"],
        "lengths": ["fixed", "varied"],
        "images": 128,
        "repeat": 5,
        "peers": ["transformers"],
        "gpu_memory": 0.4,
    },
    image_sizes=[(160, 120), (192, 144), (224, 168), (256, 192), (120, 160)],
    reference="float32",
)
PRESETS = {
    "cpu": _CPU,
    "joycaption": replace(_CPU, options={**_CPU.options, "size": ["siglip-6m"], "lengths": ["varied"]}, mode=None),
    "qwen": replace(_CPU, options={**_CPU.options, "size": ["qwen-6m"], "lengths": ["varied"]}),
    "gpu": Preset(
        options={
            "device": "cuda",
            "size": ["8b"],
            "precision": ["bfloat16", "fp8"],
            "lengths": ["varied"],
            "images": 1024,
            "repeat": 3,
            "peers": ["vllm"],
            "gpu_memory": 0.45,
        },
        image_sizes=[(512, 384)],
        reference="bfloat16",
        ways={"vllm": {"vllm": {"resized": True}, "vllm, originals": {"resized": False}}},
    ),
}
BEST = {"cpu": ("float32", "bfloat16", "int8"), "cuda": ("bfloat16", "fp8", "int8")}
"""Among which the fastest of each engine is looked for, by device."""
MODEL_BYTES = {"8b": 48 << 30}
"""Of a checkpoint and an engine of it in each precision, where that is much."""
