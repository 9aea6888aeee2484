"""Triton's attention kernels, as what one program does; see triton_kernels.py.

Softmax is online: https://arxiv.org/abs/2205.14135, section 3.1, in powers of two. The output is in the model's
precision; with a pointer to scales it is in 8 bits: every number is multiplied by `factor`, and every row's scale is
1 / factor. TYPE is that of the factors of products.
"""

import triton
import triton.language as tl

# Letters: H query heads, K key/value heads, G query heads of a key/value head, L new positions of a prompt, T positions
# of a slot, E head width, S splits of the positions.

SPLIT = tl.constexpr(256)
"""Positions that one program of decode attention reads."""
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _read_tile(cache_ptr, t, end, E: tl.constexpr, TYPE: tl.constexpr):
    """Reads keys or values of a slot's head at positions `t`, zeros from `end` on: [positions, E]."""
    e = tl.arange(0, triton.next_power_of_2(E))
    inside = (t < end)[:, None] & (e < E)[None, :]
    return tl.load(cache_ptr + t[:, None] * E + e[None, :], mask=inside, other=0.0).to(TYPE)


@triton.jit
def _attend_tile(q, k, v, visible, largest, total, out, SCALE: tl.constexpr):
    """Adds a tile of positions: to the largest score of each query, the sum of its weights, and its weighted values."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if visible is not None:
        scores = tl.where(visible, scores, float("-inf"))
    new_largest = tl.maximum(largest, tl.max(scores, 1) * SCALE)
    shrink = tl.exp2(largest - new_largest)
    weights = tl.exp2(scores * SCALE - new_largest[:, None])
    total = total * shrink + tl.sum(weights, 1)
    out = tl.dot(weights.to(v.dtype), v, out * shrink[:, None], input_precision="ieee")
    return new_largest, total, out


@triton.jit
def prefill_attention_kernel(
    q_ptr,
    keys_ptr,
    values_ptr,
    slots_ptr,
    out_ptr,
    scale_ptr,
    factor,
    START,
    L: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    T: tl.constexpr,
    E: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_T: tl.constexpr,
):  # #lizard forgives(parameter_count)
    """A program computes BLOCK_L positions of a prompt, for all query heads of a key/value head: they share its tiles.

    The grid is (blocks, K, prompts). The last blocks see the most positions, and start first.
    """
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)
    first_row = tl.program_id(2).to(tl.int64) * L
    slot = (tl.load(slots_ptr + first_row) * K + head) * T * E
    keys_ptr += slot
    values_ptr += slot
    group: tl.constexpr = triton.next_power_of_2(H // K)
    row = tl.arange(0, BLOCK_L * group)
    m = block * BLOCK_L + row // group
    g = row % group
    e = tl.arange(0, triton.next_power_of_2(E))
    cells = ((first_row + m) * H + head * (H // K) + g)[:, None] * E + e[None, :]
    inside = ((m < L) & (g < H // K))[:, None] & (e < E)[None, :]
    q = tl.load(q_ptr + cells, mask=inside, other=0.0).to(TYPE)
    scale: tl.constexpr = LOG2_E * E**-0.5
    largest = tl.full(m.shape, float("-inf"), tl.float32)
    total = tl.zeros(m.shape, tl.float32)
    out = tl.zeros((m.shape[0], e.shape[0]), tl.float32)
    before = START + block * BLOCK_L  # the position of the first row: nothing up to it needs a mask
    unmasked = (before + 1) // BLOCK_T * BLOCK_T
    end = tl.minimum(before + BLOCK_L, START + L)
    for t0 in range(0, unmasked, BLOCK_T):
        t = t0 + tl.arange(0, BLOCK_T)
        k = _read_tile(keys_ptr, t, end, E, TYPE)
        v = _read_tile(values_ptr, t, end, E, TYPE)
        largest, total, out = _attend_tile(q, k, v, None, largest, total, out, scale)
    for t0 in range(unmasked, end, BLOCK_T):
        t = t0 + tl.arange(0, BLOCK_T)
        k = _read_tile(keys_ptr, t, end, E, TYPE)
        v = _read_tile(values_ptr, t, end, E, TYPE)
        visible = t[None, :] <= (START + m)[:, None]
        largest, total, out = _attend_tile(q, k, v, visible, largest, total, out, scale)
    out /= total[:, None]
    if scale_ptr is not None:
        out *= factor
        first = (m < L) & (head == 0) & (g == 0)
        tl.store(scale_ptr + first_row + m, tl.zeros(m.shape, tl.float32) + 1.0 / factor, mask=first)
    tl.store(out_ptr + cells, out.to(out_ptr.dtype.element_ty), mask=inside)


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
    TYPE: tl.constexpr,
    BLOCK_T: tl.constexpr,
):  # #lizard forgives(parameter_count)
    """A program computes attention of a row's key/value head to SPLIT positions alone, and log2 of the sum of weights.

    The grid is (rows, K, S). Programs of an idle row, and of a split that the row has not reached, do nothing.
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
    first = (row * tl.num_programs(1) + head) * G
    queries = (g < G)[:, None] & (e < E)[None, :]
    q = tl.load(q_ptr + first * E + g[:, None] * E + e[None, :], mask=queries, other=0.0).to(TYPE)
    slot = (tl.load(rows.slots + row) * tl.num_programs(1) + head) * T * E
    keys_ptr += slot
    values_ptr += slot
    scale: tl.constexpr = LOG2_E * E**-0.5
    largest = tl.full(g.shape, float("-inf"), tl.float32)
    total = tl.zeros(g.shape, tl.float32)
    out = tl.zeros((g.shape[0], e.shape[0]), tl.float32)
    for t0 in range(start, end, BLOCK_T):
        t = t0 + tl.arange(0, BLOCK_T)
        k = _read_tile(keys_ptr, t, end, E, TYPE)
        v = _read_tile(values_ptr, t, end, E, TYPE)
        largest, total, out = _attend_tile(q, k, v, (t < end)[None, :], largest, total, out, scale)

    piece = (first + g) * tl.num_programs(2) + split
    tl.store(lse_ptr + piece, largest + tl.log2(total), mask=g < G)
    tl.store(partial_ptr + piece[:, None] * E + e[None, :], out / total[:, None], mask=queries)


@triton.jit
def combine_kernel(
    partial_ptr, lse_ptr, rows, out_ptr, scale_ptr, factor, S: tl.constexpr, T: tl.constexpr, E: tl.constexpr
):
    """A program joins the splits that a row has reached, for one query head. Idle rows get zeros."""
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
    if scale_ptr is not None:
        out *= factor
        tl.store(scale_ptr + row, 1.0 / factor, mask=tl.program_id(1) == 0)
    tl.store(out_ptr + head * E + e, out.to(out_ptr.dtype.element_ty), mask=e < E)
