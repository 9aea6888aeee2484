"""The operations of the torch engine on CPUs (csrc/cpu/ops.hpp): float32 and bfloat16, everything without the GIL.

Tensors are addresses of contiguous memory, 0 for one that is not given. Nothing can be checked here but slots and
positions: recap_fast/generate/ops/cpp.py checks tensors and passes them on.
"""
# ruff: noqa: PYI021 - the documentation is here, the bindings hold conversions only

from collections.abc import Sequence

def set_parallel(entry: int, team_size: int, /) -> None:
    """The addresses of `GOMP_parallel` and `omp_get_num_threads` in the OpenMP runtime whose threads are to be used;
    0, as at first, for none."""

def kernel_levels() -> list[str]:
    """The levels of instructions that this processor has kernels for, the best one, which is used, first."""

def use_kernels(level: str, /) -> None:
    """For tests; what was packed before is of another level. Raises ValueError for a level that is not there."""

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
def quantize_rows(bfloat16: bool, rows: int, width: int, x: int, out: int, scale: int, num_threads: int, /) -> None: ...
def dequantize(
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

def packed_size(columns: int, depth: int, /) -> int:
    """Floats that `pack` writes."""

def pack(columns: int, depth: int, pairs: bool, weight: int, packed: int, num_threads: int, /) -> None: ...

class Decoder:
    """Keeps the addresses that it is given: their memory has to live as long."""

    def __init__(
        self,
        shape: tuple[int, int, int, int, int, int],
        eps: float,
        layers: Sequence[tuple[int, ...]],
        weights: tuple[int, ...],
    ) -> None:
        """`shape`: width, inner width, query heads, key/value heads, head width, vocabulary; `layers`: norm1, qkv, kv,
        out, norm2, gate_up, down of each; `weights`: norm, head, cosines, sines."""

    def forward(
        self,
        rows: int,
        x: int,
        places: tuple[int, int],
        prompts: tuple[int, int, int],
        num_read: int,
        read: int,
        cache: tuple[int, Sequence[int]],
        logits: int,
        num_threads: int,
        /,
    ) -> None:
        """`prompts`: their number, first position and length; `cache`: that of the first layer, with its shape."""

class Tower:
    """Keeps the addresses that it is given."""

    def __init__(
        self,
        shape: tuple[int, int, int, int, int, int],
        eps: float,
        quick_gelu: bool,
        levels_class_position: tuple[int, int, int],
        patch: tuple[int, int],
        pre_norm: tuple[int, int],
        layers: Sequence[Sequence[tuple[int, int]]],
        projector: tuple[tuple[int, int], tuple[int, int]],
    ) -> None:
        """`shape`: sides of images and patches, width, inner width, heads, width of the projector. Pairs are weight, of
        matrices packed, and bias, 0 for none; `layers` have norm1, qkv, out, norm2, fc1, fc2."""

    def encode(self, pixels: int, num_images: int, tokens: int, num_threads: int, /) -> None: ...
