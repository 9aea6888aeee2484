"""Where the device's time goes: kernels by kind, from torch's profiler."""

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

KINDS = (
    ("decode attention", r"decode_attention|combine_kernel"),
    ("norms and what they quantize", r"add_rms_norm"),
    ("SwiGLU and GELU", r"swiglu|quick_gelu|gelu_tanh"),
    ("RoPE and keys and values", r"rope_store"),
    ("quantize", r"quantize_kernel|quantize_rows"),
    ("attention of prompts and images", r"flash|fmha|sdpa|cudnn.*attn|attention"),
    (
        "matrix products",
        r"gemm|gemv|nvjet|cutlass|cublas|xmma|wgmma|s16816|mkldnn|::(addmm|mm|bmm|linear)|(scaled|int)_mm",
    ),
    ("LayerNorm", r"layer_?norm"),
    ("copies", r"memcpy|memset|copy|::cat$|CatArray|index|gather|embedding"),
    ("choice of tokens", r"argmax|reduce_kernel.*ArgMax|sort|topk"),
    ("element-wise", r"elementwise|vectorized|gelu|sigmoid|::(add|mul|div|silu)_?$"),
)
"""The first pattern that a kernel's name holds says its kind; others go by their names."""


def milliseconds(step: Callable[[], Any], num_steps: int, device: str) -> dict[str, float]:
    """Milliseconds of the device's time in a step by kind, the mean of `num_steps`, largest first."""
    spent: dict[str, float] = defaultdict(float)
    for name, ms, _ in by_name(step, num_steps, device):
        spent[kind_of(name)] += ms
    return {kind: part for kind, part in sorted(spent.items(), key=lambda item: -item[1]) if part > 0}


def by_name(step: Callable[[], Any], num_steps: int, device: str) -> list[tuple[str, float, float]]:
    """Every kernel's milliseconds and launches in a step, as the mean of so many, the longest first."""
    activity = ProfilerActivity.CPU if device == "cpu" else ProfilerActivity.CUDA
    with profile(activities=[activity], acc_events=True) as profiler:
        for _ in range(num_steps):
            step()
        if device != "cpu":
            torch.cuda.synchronize()
    spent = [
        (event.key, event.self_cpu_time_total if device == "cpu" else event.self_device_time_total, event.count)
        for event in profiler.key_averages()
    ]
    found = [(name, micros / 1e3 / num_steps, count / num_steps) for name, micros, count in spent]
    return sorted(found, key=lambda kernel: -kernel[1])


def kind_of(kernel: str) -> str:
    """The kind of a kernel by its name."""
    for kind, pattern in KINDS:
        if re.search(pattern, kernel, re.IGNORECASE):
            return kind
    return kernel.partition("<")[0].removeprefix("void ")[-60:]
