"""Triton's kernels on rows, as what one program does; triton.py says how many programs there are, and their tiles.

Attention is in triton_attention.py. Written for Triton 3.6 and later. All matrices are contiguous. Arithmetic
is in float32; where the plain operation rounds to the precision of the model on its way, so does the kernel. Nothing is
read back by the host, no grid depends on data and no atomics are used: launches can be captured in a CUDA graph, and
the same input gives the same bits.

A product is a tuple of `sums`, `row_scale`, `channel_scale` and `bias`. All but the sums are None where there are none.
"""

import triton
import triton.language as tl

from recap_fast.generate.ops import plain

# Letters: R rows, D width, F inner width, H query heads, K key/value heads, T positions of a slot, E head width.

SMALLEST_SCALE = tl.constexpr(plain.SMALLEST_SCALE)
ROUNDER = tl.constexpr(1.5 * 2**23)
"""float32 has no fraction bits at this size: adding it rounds to the nearest integer, ties to even."""


@triton.jit
def _rounded(x, like_ptr):
    """float32 with the precision of what `like_ptr` points to."""
    return x.to(like_ptr.dtype.element_ty).to(tl.float32)


@triton.jit
def _store_row(y, row, columns, inside, out_ptr, scale_ptr, LARGEST: tl.constexpr):
    """Stores a row; with LARGEST, the 8-bit type's largest number, it is a whole row, and scaled to that type."""
    if LARGEST is not None:
        scale = tl.div_rn(tl.maximum(tl.max(tl.abs(y), 0), SMALLEST_SCALE * LARGEST), LARGEST)
        tl.store(scale_ptr + row, scale)
        y = y * tl.div_rn(1.0, scale)
        if out_ptr.dtype.element_ty == tl.int8:
            y = (y + ROUNDER) - ROUNDER
    tl.store(out_ptr + columns, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _apply_scales(y, row_scale, channel_scale, TYPE: tl.constexpr):
    """The numbers of a product from its sums, rounded to the model's precision."""
    return (y * row_scale * channel_scale).to(TYPE).to(tl.float32)


@triton.jit
def _load_product(product, row, start, columns, inside, TYPE: tl.constexpr):
    """Reads numbers of a product's row, which begins at `start`, as float32; TYPE is the model's precision."""
    y = tl.load(product.sums + start + columns, mask=inside, other=0).to(tl.float32)
    if product.row_scale is not None:
        y = y * tl.load(product.row_scale + row) * tl.load(product.channel_scale + columns, mask=inside, other=0.0)
        if product.bias is not None:
            y += tl.load(product.bias + columns, mask=inside, other=0.0)
        y = y.to(TYPE).to(tl.float32)
    return y


@triton.jit
def add_rms_norm_kernel(
    x_ptr, delta, weight_ptr, eps, out_ptr, scale_ptr, D: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr
):
    """A program computes a row, which is read once and stays in registers."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    inside = d < D
    x = tl.load(x_ptr + row * D + d, mask=inside, other=0.0).to(tl.float32)
    if delta.sums is not None:
        x += _load_product(delta, row, row * D, d, inside, x_ptr.dtype.element_ty)
        tl.store(x_ptr + row * D + d, x.to(x_ptr.dtype.element_ty), mask=inside)
        x = _rounded(x, x_ptr)
    weight = tl.load(weight_ptr + d, mask=inside, other=0.0).to(tl.float32)
    normed = _rounded(x * tl.rsqrt(tl.sum(x * x, 0) / D + eps), x_ptr)
    _store_row(_rounded(normed * weight, x_ptr), row, row * D + d, inside, out_ptr, scale_ptr, LARGEST)


@triton.jit
def swiglu_kernel(
    gate_up,
    R,
    ROWS: tl.constexpr,
    TYPE: tl.constexpr,
    out_ptr,
    scale_ptr,
    F: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program computes a block of ROWS rows; whole rows where they are quantized. TYPE is the model's precision.

    The channels' scales take more bytes than a row: a program reads them once for all of its rows.
    """
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = f < F
    if gate_up.row_scale is not None:
        gate_scale = tl.load(gate_up.channel_scale + f, mask=inside, other=0.0)
        up_scale = tl.load(gate_up.channel_scale + F + f, mask=inside, other=0.0)
    for i in tl.static_range(ROWS):
        row = tl.program_id(0).to(tl.int64) * ROWS + i
        here = inside & (row < R)
        gate = tl.load(gate_up.sums + row * 2 * F + f, mask=here, other=0).to(tl.float32)
        up = tl.load(gate_up.sums + row * 2 * F + F + f, mask=here, other=0).to(tl.float32)
        if gate_up.row_scale is not None:
            row_scale = tl.load(gate_up.row_scale + row, mask=row < R, other=0.0)
            gate = _apply_scales(gate, row_scale, gate_scale, TYPE)
            up = _apply_scales(up, row_scale, up_scale, TYPE)
        silu = (gate / (1.0 + tl.exp(-gate))).to(TYPE).to(tl.float32)
        y = (silu * up).to(TYPE).to(tl.float32)
        if row < R:
            _store_row(y, row, row * F + f, here, out_ptr, scale_ptr, LARGEST)


@triton.jit
def quick_gelu_kernel(x_ptr, out_ptr, scale_ptr, F: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """A program computes a block of a row; a whole row where it is quantized."""
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = f < F
    x = tl.load(x_ptr + row * F + f, mask=inside, other=0.0).to(tl.float32)
    share = _rounded(1.0 / (1.0 + tl.exp(-_rounded(1.702 * x, x_ptr))), x_ptr)
    _store_row(_rounded(x * share, x_ptr), row, row * F + f, inside, out_ptr, scale_ptr, LARGEST)


@triton.jit
def gelu_tanh_kernel(x_ptr, out_ptr, scale_ptr, F: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """A program computes a block of a row; a whole row where it is quantized. (1 + tanh(t)) / 2 is sigmoid(2 t)."""
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = f < F
    x = tl.load(x_ptr + row * F + f, mask=inside, other=0.0).to(tl.float32)
    twice = 1.5957691216057308 * x * (1.0 + 0.044715 * x * x)
    y = _rounded(x / (1.0 + tl.exp(-twice)), x_ptr)
    _store_row(y, row, row * F + f, inside, out_ptr, scale_ptr, LARGEST)


@triton.jit
def quantize_kernel(x_ptr, out_ptr, scale_ptr, D: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """A program quantizes a row."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * D + d, mask=d < D, other=0.0).to(tl.float32)
    _store_row(x, row, row * D + d, d < D, out_ptr, scale_ptr, LARGEST)


@triton.jit
def _turn(
    qkv,
    row,
    start,
    first,
    to_ptr,
    to_stride,
    turn,
    norm_ptr,
    eps,
    HEADS: tl.constexpr,
    E: tl.constexpr,
    TYPE: tl.constexpr,
):  # #lizard forgives(parameter_count)
    """Rotates heads of a row, from column `first` on, by `turn` (cosines, sines), and stores them `to_stride` apart.

    With weights at `norm_ptr` each head gets its RMS norm before that.
    """
    cos, sin = turn
    half: tl.constexpr = E // 2
    h = tl.arange(0, triton.next_power_of_2(HEADS))[:, None]
    e = tl.arange(0, triton.next_power_of_2(half))[None, :]
    inside = (h < HEADS) & (e < half)
    a = _load_product(qkv, row, start, first + h * E + e, inside, TYPE)
    b = _load_product(qkv, row, start, first + h * E + half + e, inside, TYPE)
    if norm_ptr is not None:
        factor = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / E + eps)[:, None]
        a_weight = tl.load(norm_ptr + e, mask=e < half, other=0.0).to(tl.float32)
        b_weight = tl.load(norm_ptr + half + e, mask=e < half, other=0.0).to(tl.float32)
        a = ((a * factor).to(TYPE).to(tl.float32) * a_weight).to(TYPE).to(tl.float32)
        b = ((b * factor).to(TYPE).to(tl.float32) * b_weight).to(TYPE).to(tl.float32)
    to_type: tl.constexpr = to_ptr.dtype.element_ty
    tl.store(to_ptr + h * to_stride + e, (a * cos - b * sin).to(to_type), mask=inside)
    tl.store(to_ptr + h * to_stride + half + e, (b * cos + a * sin).to(to_type), mask=inside)


@triton.jit
def rope_store_kernel(
    qkv,
    q_ptr,
    rope,
    norm,
    rows,
    keys_ptr,
    values_ptr,
    H: tl.constexpr,
    K: tl.constexpr,
    T: tl.constexpr,
    E: tl.constexpr,
):  # #lizard forgives(parameter_count)
    """A program takes a row: it norms and rotates the H queries and K keys, and copies the K values.

    `norm` are the weights for queries and for keys, None where there are none, and what is added to mean squares.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(rows.slots + row)
    position = tl.load(rows.positions + row)
    half: tl.constexpr = E // 2
    e = tl.arange(0, triton.next_power_of_2(half))[None, :]
    # Both halves of a cosine row are the same, those of a sine row differ in sign.
    cos = tl.load(rope.cos + position * E + e, mask=e < half, other=0.0).to(tl.float32)
    sin = tl.load(rope.sin + position * E + half + e, mask=e < half, other=0.0).to(tl.float32)
    start = row * (H + 2 * K) * E
    type_: tl.constexpr = q_ptr.dtype.element_ty
    cell = slot * K * T * E + position * E
    if H > 0:
        _turn(qkv, row, start, 0, q_ptr + row * H * E, E, (cos, sin), norm.query, norm.eps, H, E, type_)
    _turn(qkv, row, start, H * E, keys_ptr + cell, T * E, (cos, sin), norm.key, norm.eps, K, E, type_)
    k = tl.arange(0, triton.next_power_of_2(K))[:, None]
    e = tl.arange(0, triton.next_power_of_2(E))[None, :]
    inside = (k < K) & (e < E)
    values = _load_product(qkv, row, start, (H + K) * E + k * E + e, inside, type_)
    tl.store(values_ptr + cell + k * T * E + e, values.to(values_ptr.dtype.element_ty), mask=inside)
