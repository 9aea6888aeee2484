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

# Letters: R rows, D width, N output channels, F inner width, H query heads, K key/value heads, E head width, T
# positions of a slot.


class Quantized(NamedTuple):
    """Rows in 8 bits: row r stands for values[r] * scale[r]."""

    values: Tensor
    """int8 or float8_e4m3fn [R, D]."""
    scale: Tensor
    """float32 [R, 1]: the row's largest magnitude over the type's largest number (127 for int8, 448 for
    float8_e4m3fn), and at least 1e-12, so that a row of zeros is not divided by zero."""


Activation = Tensor | Quantized
"""What a linear layer takes."""


class Unscaled(NamedTuple):
    """A product of 8-bit matrices before its scales are applied.

    The operation that reads it applies them, which saves a pass over memory. Number [r, n] is
    sums[r, n] * row_scale[r] * channel_scale[n] + bias[n], rounded to `dtype`.
    """

    sums: Tensor
    """int32, float32 or bfloat16 [R, N]."""
    row_scale: Tensor
    """float32 [R, 1]."""
    channel_scale: Tensor
    """float32 [N]."""
    dtype: torch.dtype
    """The precision of the model."""
    bias: Tensor | None = None
    """float32 [N]."""


Product = Tensor | Unscaled
"""What a linear layer makes."""


class Rows(NamedTuple):
    """Where the keys and values of each row go."""

    slots: Tensor
    """int64 [R]."""
    positions: Tensor
    """int64 [R]."""


class Prompts(NamedTuple):
    """The first num * length rows of a step: whole prompts, one after another, each in a slot of its own."""

    num: int
    start: int
    """Position of each prompt's first row; keys and values of earlier positions are in the cache already."""
    length: int

    @property
    def num_rows(self) -> int:
        return self.num * self.length


class Rope(NamedTuple):
    """Rotary tables of `llama.rope_table`, by position."""

    cos: Tensor
    """[T, E], in the precision of the model."""
    sin: Tensor
    """[T, E], the first half negated."""


class HeadNorm(NamedTuple):
    """An RMS norm of each head of queries and keys, as Qwen3 has it."""

    query: Tensor
    """The weight for queries, [E] in the precision of the model."""
    key: Tensor
    """The one for keys, as well."""
    eps: float


class Ops(Protocol):
    """An implementation of the operations; a module is one."""

    def add_rms_norm(
        self, x_RD: Tensor, delta_RD: Product | None, weight_D: Tensor, eps: float, quantize: torch.dtype | None
    ) -> Activation:
        """Adds `delta` to the residual stream `x` in place, and returns Llama's norm of the sum.

        Statistics are in float32. `quantize` is the 8-bit type to return it in; None for that of `x`.
        """

    def swiglu(self, gate_up_R2F: Product, quantize: torch.dtype | None) -> Activation:
        """silu(gate) * up of a fused projection [R, 2F]: [R, F]."""

    def quick_gelu(self, x_RF: Tensor, quantize: torch.dtype | None) -> Activation:
        """x * sigmoid(1.702 x), CLIP's activation: [R, F]."""

    def gelu_tanh(self, x_RF: Tensor, quantize: torch.dtype | None) -> Activation:
        """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), SigLIP's activation: [R, F]."""

    def quantize_rows(self, x_RD: Tensor, dtype: torch.dtype) -> Quantized:
        """Each row in 8 bits with a scale of its own; int8 is rounded to the nearest, ties to even."""

    def dequantize(self, product: Unscaled) -> Tensor:
        """Applies the scales of a product, adds its bias, and rounds: [R, N]."""

    def rope_store(
        self, qkv_RC: Product, num_heads: int, rope: Rope, rows: Rows, cache: Tensor, norm: HeadNorm | None
    ) -> Tensor:
        """Turns queries and keys, after their norm if there is one, and writes keys and values to the cache.

        They are turned by their rows' positions. qkv [R, (H + 2K) * E] holds queries, keys, values, in this order; with
        `num_heads` 0 it holds no queries. The cache of one layer is [2, slots, K, T, E], in the model's precision or
        float8_e4m3fn. Returns the queries [R, H, E]. Rows of the same slot and position may overwrite one another in
        any order.
        """

    def attention(
        self, q_RHE: Tensor, cache: Tensor, rows: Rows, prompts: Prompts | None, bound: float | None
    ) -> Activation:
        """Attention of each row to its slot's cache, from position 0 up to its own: [R, H * E].

        `prompts` says which rows are whole prompts, and may be computed together. Any other row at the cache's last
        position is idle: its result is finite and has no meaning.

        The result is in the model's precision. With a `bound`, which no value in the cache may exceed in magnitude, it
        is float8_e4m3fn, and every row's scale is bound / 448. The result stays within the bound, too, since it is an
        average of values. A bound that is some powers of two too wide costs little: e4m3 keeps its full precision over
        15 powers of two, and only numbers far below the bound lose some.
        """
