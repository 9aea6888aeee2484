"""What models are computed with: the few operations that a step is made of besides matrix products, and linear layers.

    plain.py    torch alone, any device: the truth that the others are tested against
    cpp.py      C++ for CPUs, float32 and bfloat16
    triton.py   Triton for CUDA devices (its kernels are in triton_kernels.py)
    select.py   which of the three a device gets
    linear.py   matrix products, in each precision

The first three have the same functions, those of `Ops`.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# Letters: R rows, D width, H query heads, K key/value heads, E head width, T positions of a slot, B decode rows.


class Quantized(NamedTuple):
    """Rows in 8 bits: row r stands for values[r] * scale[r]."""

    values: Tensor
    """int8 or float8_e4m3fn [R, D]."""
    scale: Tensor
    """float32 [R, 1]: the row's largest magnitude over the type's largest number (127 for int8, 448 for
    float8_e4m3fn), and at least 1e-12, so that a row of zeros is not divided by zero."""


Activation = Tensor | Quantized
"""What a linear layer takes."""


class Rows(NamedTuple):
    """Where the keys and values of each row go."""

    slots: Tensor
    """int64 [R]."""
    positions: Tensor
    """int64 [R]."""


class Rope(NamedTuple):
    """Rotary tables of `llama.rope_table`, by position."""

    cos: Tensor
    """[T, E], in the precision of the model."""
    sin: Tensor
    """[T, E], the first half negated."""


class Ops(Protocol):
    """An implementation of the operations; a module is one."""

    BY_ROW: frozenset[torch.dtype]
    """The precisions in which `decode_attention` of all rows of a prompt is faster than one causal product."""

    def add_rms_norm(
        self, x_RD: Tensor, delta_RD: Tensor | None, weight_D: Tensor, eps: float, quantize: torch.dtype | None
    ) -> Activation:
        """Adds `delta` to the residual stream `x` in place, and returns Llama's norm of the sum.

        Statistics are in float32. `quantize` is the 8-bit type to return it in; None for that of `x`.
        """

    def swiglu(self, gate_up_R2F: Tensor, quantize: torch.dtype | None) -> Activation:
        """silu(gate) * up of a fused projection [R, 2F]: [R, F]."""

    def quick_gelu(self, x_RF: Tensor, quantize: torch.dtype | None) -> Activation:
        """x * sigmoid(1.702 x), CLIP's activation: [R, F]."""

    def quantize_rows(self, x_RD: Tensor, dtype: torch.dtype) -> Quantized:
        """Each row in 8 bits with a scale of its own; int8 is rounded to the nearest, ties to even."""

    def dequantize(
        self, sums_RN: Tensor, row_scale_R1: Tensor, channel_scale_N: Tensor, bias_N: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """A product of 8-bit matrices, int32 or float32 [R, N], as numbers: sums * row_scale * channel_scale + bias."""

    def rope_store(self, qkv_RC: Tensor, num_heads: int, rope: Rope, rows: Rows, cache: Tensor) -> Tensor:
        """Turns queries and keys by their rows' positions and writes keys and values to the cache.

        qkv [R, (H + 2K) * E] holds queries, keys, values, in this order; with `num_heads` 0 it holds no queries. The
        cache of one layer is [2, slots, K, T, E], in the model's precision or float8_e4m3fn. Returns the queries
        [R, H, E]. Rows of the same slot and position may overwrite one another in any order.
        """

    def decode_attention(self, q_BHE: Tensor, cache: Tensor, rows: Rows) -> Tensor:
        """Attention of one query row to its slot's cache, from position 0 up to its own: [B, H * E].

        A row at the cache's last position is idle: what it gets is finite and means nothing.
        """
