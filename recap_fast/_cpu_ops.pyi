"""The operations of the torch engine on CPUs (csrc/cpu_ops.hpp): float32 and bfloat16, everything without the GIL.

Tensors are addresses of contiguous memory, 0 for one that is not given. Nothing can be checked here but slots and
positions: recap_fast/generate/torch_backend/ops/native.py checks tensors and passes them on.
"""
# ruff: noqa: PYI021 - the documentation is here, the bindings hold conversions only

from collections.abc import Sequence

def set_parallel(entry: int, /) -> None:
    """The address of `GOMP_parallel` in the OpenMP runtime whose threads are to be used; 0, as at first, for none."""

def add_rms_norm(
    bfloat16: bool,
    rows: int,
    width: int,
    x: int,
    delta: int,
    weight: int,
    eps: float,
    out: int,
    scale: int,
    num_threads: int,
    /,
) -> None:
    """`out` and `scale` here and below: int8 rows with scales, or with `scale` 0 rows in the model's precision."""

def swiglu(bfloat16: bool, rows: int, width: int, gate_up: int, out: int, scale: int, num_threads: int, /) -> None:
    """`width` is that of the output."""

def quick_gelu(bfloat16: bool, rows: int, width: int, x: int, out: int, scale: int, num_threads: int, /) -> None: ...
def quantise_rows(bfloat16: bool, rows: int, width: int, x: int, out: int, scale: int, num_threads: int, /) -> None: ...
def dequantise(
    bfloat16: bool,
    rows: int,
    width: int,
    float_sums: bool,
    sums: int,
    row_scale: int,
    channel_scale: int,
    bias: int,
    out: int,
    num_threads: int,
    /,
) -> None:
    """`bfloat16` is the output's precision; sums are int32 or float32, scales and bias float32."""

def rope_store(
    bfloat16: bool,
    num_heads: int,
    rows: int,
    qkv: int,
    cos: int,
    sin: int,
    slots_and_positions: tuple[int, int],
    cache_and_shape: tuple[int, Sequence[int]],
    out: int,
    num_threads: int,
    /,
) -> None:
    """The cache is [2, slots, K, T, E]. Raises IndexError for a slot or position outside of it."""

def decode_attention(
    bfloat16: bool,
    num_heads: int,
    rows: int,
    queries: int,
    slots_and_positions: tuple[int, int],
    cache_and_shape: tuple[int, Sequence[int]],
    out: int,
    num_threads: int,
    /,
) -> None:
    """Raises IndexError as `rope_store` does."""
