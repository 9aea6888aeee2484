"""What one program of each Triton kernel does; triton.py says how many there are and how large their tiles.

Written for Triton 3.6 and later. All matrices are contiguous. Arithmetic is in float32; where the plain operation
rounds to the precision of the model on its way, so does the kernel. Nothing is read back by the host, no grid depends
on data and no atomics are used: launches can be captured in a CUDA graph, and the same input gives the same bits.
"""

import triton
import triton.language as tl

from recap_fast.generate.ops import plain

# Letters: R rows, D width, F inner width, H query heads, K key/value heads, G query heads of a key/value head, T
# positions of a slot, E head width, S splits of the positions.

SPLIT = tl.constexpr(256)
"""Positions that one program of decode attention reads."""

SMALLEST_SCALE = tl.constexpr(plain.SMALLEST_SCALE)
ROUNDER = tl.constexpr(1.5 * 2**23)
"""float32 has no fraction bits at this size: adding it rounds to the nearest integer, ties to even."""
LOG2_E = tl.constexpr(1.4426950408889634)


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
def add_rms_norm_kernel(
    x_ptr, delta_ptr, weight_ptr, eps, out_ptr, scale_ptr, D: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr
):
    """A program is a row, which is read once and stays in registers."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    inside = d < D
    x = tl.load(x_ptr + row * D + d, mask=inside, other=0.0).to(tl.float32)
    if delta_ptr is not None:
        x += tl.load(delta_ptr + row * D + d, mask=inside, other=0.0).to(tl.float32)
        tl.store(x_ptr + row * D + d, x.to(x_ptr.dtype.element_ty), mask=inside)
        x = _rounded(x, x_ptr)
    weight = tl.load(weight_ptr + d, mask=inside, other=0.0).to(tl.float32)
    normed = _rounded(x * tl.rsqrt(tl.sum(x * x, 0) / D + eps), x_ptr)
    _store_row(_rounded(normed * weight, x_ptr), row, row * D + d, inside, out_ptr, scale_ptr, LARGEST)


@triton.jit
def swiglu_kernel(gate_up_ptr, out_ptr, scale_ptr, F: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """A program is a block of a row; a whole row where it is quantized."""
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = f < F
    gate = tl.load(gate_up_ptr + row * 2 * F + f, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * F + F + f, mask=inside, other=0.0).to(tl.float32)
    silu = _rounded(gate / (1.0 + tl.exp(-gate)), gate_up_ptr)
    _store_row(_rounded(silu * up, gate_up_ptr), row, row * F + f, inside, out_ptr, scale_ptr, LARGEST)


@triton.jit
def quick_gelu_kernel(x_ptr, out_ptr, scale_ptr, F: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """A program is a block of a row; a whole row where it is quantized."""
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = f < F
    x = tl.load(x_ptr + row * F + f, mask=inside, other=0.0).to(tl.float32)
    share = _rounded(1.0 / (1.0 + tl.exp(-_rounded(1.702 * x, x_ptr))), x_ptr)
    _store_row(_rounded(x * share, x_ptr), row, row * F + f, inside, out_ptr, scale_ptr, LARGEST)


@triton.jit
def quantize_kernel(x_ptr, out_ptr, scale_ptr, D: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """A program is a row."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * D + d, mask=d < D, other=0.0).to(tl.float32)
    _store_row(x, row, row * D + d, d < D, out_ptr, scale_ptr, LARGEST)


@triton.jit
def dequantize_kernel(
    sums_ptr,
    row_scale_ptr,
    channel_scale_ptr,
    bias_ptr,
    out_ptr,
    R,
    N: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A program is a tile of several rows, so that the channels' scales are read once for all of them."""
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (r < R)[:, None] & (n < N)[None, :]
    cells = r[:, None].to(tl.int64) * N + n[None, :]
    sums = tl.load(sums_ptr + cells, mask=inside, other=0).to(tl.float32)
    row_scale = tl.load(row_scale_ptr + r, mask=r < R, other=0.0)
    channel_scale = tl.load(channel_scale_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    y = sums * row_scale[:, None] * channel_scale[None, :]
    if bias_ptr is not None:
        y += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + cells, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _turn(from_ptr, to_ptr, to_stride, cos, sin, HEADS: tl.constexpr, E: tl.constexpr):
    """Rotates heads that lie one after another, and stores them `to_stride` apart."""
    half: tl.constexpr = E // 2
    h = tl.arange(0, triton.next_power_of_2(HEADS))[:, None]
    e = tl.arange(0, triton.next_power_of_2(half))[None, :]
    inside = (h < HEADS) & (e < half)
    a = tl.load(from_ptr + h * E + e, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(from_ptr + h * E + half + e, mask=inside, other=0.0).to(tl.float32)
    to_type: tl.constexpr = to_ptr.dtype.element_ty
    tl.store(to_ptr + h * to_stride + e, (a * cos - b * sin).to(to_type), mask=inside)
    tl.store(to_ptr + h * to_stride + half + e, (b * cos + a * sin).to(to_type), mask=inside)


@triton.jit
def rope_store_kernel(
    qkv_ptr, q_ptr, rope, rows, keys_ptr, values_ptr, H: tl.constexpr, K: tl.constexpr, T: tl.constexpr, E: tl.constexpr
):
    """A program is a row: turns its H queries and K keys, copies its K values."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(rows.slots + row)
    position = tl.load(rows.positions + row)
    half: tl.constexpr = E // 2
    e = tl.arange(0, triton.next_power_of_2(half))[None, :]
    # Both halves of a cosine row are the same, those of a sine row differ in sign.
    cos = tl.load(rope.cos + position * E + e, mask=e < half, other=0.0).to(tl.float32)
    sin = tl.load(rope.sin + position * E + half + e, mask=e < half, other=0.0).to(tl.float32)
    queries_ptr = qkv_ptr + row * (H + 2 * K) * E
    cell = slot * K * T * E + position * E
    if H > 0:
        _turn(queries_ptr, q_ptr + row * H * E, E, cos, sin, H, E)
    _turn(queries_ptr + H * E, keys_ptr + cell, T * E, cos, sin, K, E)
    k = tl.arange(0, triton.next_power_of_2(K))[:, None]
    e = tl.arange(0, triton.next_power_of_2(E))[None, :]
    inside = (k < K) & (e < E)
    values = tl.load(queries_ptr + (H + K) * E + k * E + e, mask=inside, other=0.0).to(tl.float32)
    tl.store(values_ptr + cell + k * T * E + e, values.to(values_ptr.dtype.element_ty), mask=inside)


@triton.jit
def decode_attention_kernel(
    q_ptr,
    keys_ptr,
    values_ptr,
    rows,
    partial_ptr,
    lse_ptr,
    G: tl.constexpr,
    T: tl.constexpr,
    E: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """A program is SPLIT positions of a row's key/value head: their attention alone, and log2 of their weights' sum.

    The grid is (rows, K, S). Programs of an idle row, and of a split that the row has not reached, do nothing. Softmax
    is online: https://arxiv.org/abs/2205.14135, section 3.1, in powers of two.
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    position = tl.load(rows.positions + row).to(tl.int32)
    start = split * SPLIT
    if (position == T - 1) | (start > position):
        return
    end = tl.minimum(start + SPLIT, position + 1)
    g = tl.arange(0, max(16, triton.next_power_of_2(G)))  # the matrix units take 16 rows at the least
    e = tl.arange(0, triton.next_power_of_2(E))
    # A number of 8 bits is one of float16 too, and is turned into that faster than into bfloat16.
    in_bits: tl.constexpr = keys_ptr.dtype.element_ty.primitive_bitwidth
    full: tl.constexpr = q_ptr.dtype.element_ty
    dot_type: tl.constexpr = tl.float16 if in_bits == 8 and full.primitive_bitwidth == 16 else full

    first = (row * tl.num_programs(1) + head) * G
    queries = (g < G)[:, None] & (e < E)[None, :]
    q = tl.load(q_ptr + first * E + g[:, None] * E + e[None, :], mask=queries, other=0.0).to(dot_type)
    slot = tl.load(rows.slots + row) * tl.num_programs(1) + head
    keys_ptr += slot * T * E
    values_ptr += slot * T * E
    scale: tl.constexpr = LOG2_E * E**-0.5
    largest = tl.full(g.shape, float("-inf"), tl.float32)
    total = tl.zeros(g.shape, tl.float32)
    out = tl.zeros((g.shape[0], e.shape[0]), tl.float32)
    for t0 in range(start, end, BLOCK_T):
        t = t0 + tl.arange(0, BLOCK_T)
        inside = (t < end)[:, None] & (e < E)[None, :]
        cells = t[:, None] * E + e[None, :]
        k = tl.load(keys_ptr + cells, mask=inside, other=0.0).to(dot_type)
        v = tl.load(values_ptr + cells, mask=inside, other=0.0).to(dot_type)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where((t < end)[None, :], scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        shrink = tl.exp2(largest - new_largest)
        weights = tl.exp2(scores - new_largest[:, None])
        total = total * shrink + tl.sum(weights, 1)
        out = tl.dot(weights.to(dot_type), v, out * shrink[:, None], input_precision="ieee")
        largest = new_largest

    piece = (first + g) * tl.num_programs(2) + split
    tl.store(lse_ptr + piece, largest + tl.log2(total), mask=g < G)
    tl.store(partial_ptr + piece[:, None] * E + e[None, :], out / total[:, None], mask=queries)


@triton.jit
def combine_kernel(partial_ptr, lse_ptr, rows, out_ptr, S: tl.constexpr, T: tl.constexpr, E: tl.constexpr):
    """A program is a query head of a row: joins the splits that the row has reached. Idle rows get zeros."""
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(rows.positions + row)
    count = tl.where(position == T - 1, 0, position // SPLIT + 1)
    s = tl.arange(0, triton.next_power_of_2(S))
    e = tl.arange(0, triton.next_power_of_2(E))
    head = row * tl.num_programs(1) + tl.program_id(1)
    lse = tl.load(lse_ptr + head * S + s, mask=s < count, other=float("-inf"))
    weights = tl.exp2(lse - tl.where(count > 0, tl.max(lse, 0), 0.0))
    inside = (s < count)[:, None] & (e < E)[None, :]
    pieces = tl.load(partial_ptr + (head * S + s)[:, None] * E + e[None, :], mask=inside, other=0.0)
    out = tl.sum(pieces * weights[:, None], 0) / tl.maximum(tl.sum(weights, 0), 1.0)  # the largest weight is 1
    tl.store(out_ptr + head * E + e, out.to(out_ptr.dtype.element_ty), mask=e < E)
