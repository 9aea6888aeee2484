"""What every implementation of `Ops` has to do, an operation a function: on random numbers, beside float64.

`ops` is plain.py, cpp.py, or Triton's in whatever process or on whatever card.
"""

from typing import Any

import torch
from support import tolerance
from support.tolerance import assert_within, exact
from torch import Tensor

from recap_fast.generate.ops import Quantized, Rope, Rows, cpp, plain
from recap_fast.generate.spec import RopeSpec
from recap_fast.generate.torch_backend.llama import rope_table

FLOAT_TYPES = [torch.float32, torch.bfloat16]
EIGHT_BITS = [torch.int8, torch.float8_e4m3fn]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check_add_rms_norm(
    ops: Any, dtype: torch.dtype, rows: int, width: int, adds: bool, quantize: torch.dtype | None, seed: int = 0
) -> None:
    x, weight = 3 * random(rows, width, seed=seed, dtype=dtype), random(width, seed=seed + 1, dtype=dtype)
    delta = random(rows, width, seed=seed + 2, dtype=dtype) if adds else None
    total = x.clone() if delta is None else x + delta
    got = ops.add_rms_norm(x, delta, weight, 1e-5, quantize)
    assert torch.equal(x, total), "the sum stays in x"
    assert (got.values if isinstance(got, Quantized) else got).dtype == (quantize or dtype)
    assert_within(got, tolerance.rms_norm(exact(total), weight, 1e-5, dtype))


def check_swiglu(
    ops: Any, dtype: torch.dtype, rows: int, width: int, quantize: torch.dtype | None, seed: int = 0
) -> None:
    gate_up = 5 * random(rows, 2 * width, seed=seed, dtype=dtype)
    gate, up = map(exact, gate_up.chunk(2, -1))
    assert_within(ops.swiglu(gate_up, quantize), tolerance.swiglu(gate, up, dtype))


def check_quick_gelu(
    ops: Any, dtype: torch.dtype, rows: int, width: int, quantize: torch.dtype | None, seed: int = 0
) -> None:
    x = 5 * random(rows, width, seed=seed, dtype=dtype)
    assert_within(ops.quick_gelu(x, quantize), tolerance.quick_gelu(exact(x), dtype))


def check_quantize_rows(
    ops: Any,
    dtype: torch.dtype,
    rows: int,
    width: int,
    quantize: torch.dtype,
    magnitude: float = 1.0,
    seed: int = 0,
) -> None:
    x = magnitude * random(rows, width, seed=seed, dtype=dtype) * torch.logspace(-3, 3, rows)[:, None].to(dtype)
    got = ops.quantize_rows(x, quantize)
    assert got.values.dtype == quantize
    assert_within(got, exact(x))


def check_ties_and_zeros(ops: Any, dtype: torch.dtype, quantize: torch.dtype) -> None:
    """Ties of int8 go to the even number. A row of zeros stays zeros, with a scale."""
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127.0], [0.0] * 8], dtype=dtype)
    values, scale = ops.quantize_rows(x, quantize)
    if quantize == torch.int8:
        assert values[0].tolist() == [127, 0, 2, 2, 0, -2, -2, -127]
        assert scale[0] == 1.0
    assert not values[1].float().any()
    assert 0.0 < scale[1] < torch.inf


def check_dequantize(
    ops: Any,
    dtype: torch.dtype,
    rows: int,
    width: int,
    bias_dtype: torch.dtype | None,
    sum_dtype: torch.dtype = torch.int32,
    seed: int = 0,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sums = torch.randint(-(2**31), 2**31 - 1, (rows, width), dtype=torch.int32, generator=generator)
    row_scale, channel_scale = random(rows, 1, seed=seed).abs() / 2**20, random(width, seed=seed + 1).abs() / 2**10
    bias = None if bias_dtype is None else random(width, seed=seed + 2, dtype=bias_dtype)
    got = ops.dequantize(sums.to(sum_dtype), row_scale, channel_scale, bias, dtype)
    assert got.dtype == dtype
    assert_within(got, tolerance.dequantize(exact(sums), row_scale, channel_scale, bias).rounded(dtype))


def check_rope_store(
    ops: Any,
    dtype: torch.dtype,
    rows: int,
    heads: int,
    kv_heads: int,
    width: int,
    cached: torch.dtype | None = None,
    seed: int = 0,
) -> None:
    """Rows at any places, some in one slot; all else of the cache stays what it was."""
    num_slots, num_positions = 4, 13
    place = torch.randperm(num_slots * num_positions, generator=torch.Generator().manual_seed(seed))[:rows]
    places = Rows(place // num_positions, place % num_positions)
    rope = Rope(*(table.to(dtype) for table in rope_table(RopeSpec(theta=10000.0), width, num_positions)))
    qkv = random(rows, (heads + 2 * kv_heads) * width, seed=seed, dtype=dtype)
    cache = random(2, num_slots, kv_heads, num_positions, width, seed=seed + 1).to(cached or dtype)
    expected = cache.clone().float()
    got = ops.rope_store(qkv, heads, rope, places, cache)
    assert (got.shape, got.dtype) == ((rows, heads, width), dtype)
    turned, values = qkv.view(rows, heads + 2 * kv_heads, width).split([heads + kv_heads, kv_heads], 1)
    turned = tolerance.rotate(exact(turned), *(table[places.positions, None] for table in rope), dtype)
    assert_within(got, turned[:, :heads])
    keys, kind = turned[:, heads:], torch.finfo(cache.dtype)
    if cache.dtype != dtype:
        keys = keys.rounded(cache.dtype).plus_error(torch.full_like(keys.value, kind.smallest_normal * kind.eps / 2))
    found = cache.float()
    assert_within(found[0, places.slots, :, places.positions], keys)
    expected[0, places.slots, :, places.positions] = found[0, places.slots, :, places.positions]
    expected[1, places.slots, :, places.positions] = values.to(cache.dtype).float()
    assert torch.equal(found, expected), "the values, and what is not written"


def check_decode_attention(
    ops: Any,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    width: int,
    positions: list[int],
    length: int,
    cached: torch.dtype | None = None,
    seed: int = 0,
) -> None:
    """What no row may read is NaN, or large for plain torch, which masks it; idle rows, at the last position, get
    zeros from all but plain torch."""
    rows = Rows(torch.arange(len(positions)).flip(0) + 1, torch.tensor(positions, dtype=torch.int64))
    q = 2 * random(len(positions), heads, width, seed=seed, dtype=dtype)
    cache = random(2, len(positions) + 1, kv_heads, length, width, seed=seed + 1).to(cached or dtype)
    keys, values = (exact(part[rows.slots]) for part in cache.float())
    visible = torch.arange(length) <= rows.positions[:, None, None, None]
    weights = torch.float16 if cache.dtype.itemsize < dtype.itemsize < 4 else torch.float32 if ops is cpp else dtype
    want = tolerance.attention(
        exact(q.view(len(positions), kv_heads, heads // kv_heads, width)), keys, values, visible, weights
    )
    readable = torch.zeros(len(positions) + 1, length, dtype=torch.bool)
    for slot, position in zip(rows.slots.tolist(), positions, strict=True):
        readable[slot, : position + 1] = position < length - 1
    hidden = cache.float().masked_fill(~readable[:, None, :, None], 400.0 if ops is plain else torch.nan)
    got = ops.decode_attention(q, hidden.to(cache.dtype), rows)
    idle = rows.positions == length - 1
    assert got.dtype == dtype
    assert_within(got[~idle], want.map(lambda x: x.flatten(1)).rounded(dtype)[~idle])
    assert got[idle].isfinite().all() if ops is plain else not got[idle].any()
