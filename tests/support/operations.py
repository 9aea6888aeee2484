"""What every implementation of `Ops` has to do, an operation a function: on random numbers, beside float64.

`ops` is plain.py, cpp.py, or Triton's in whatever process or on whatever card.
"""

from typing import Any

import torch
from support import tolerance
from support.tolerance import assert_within, exact, near, unit
from torch import Tensor

from recap_fast.generate.model_spec import RopeSpec
from recap_fast.generate.ops import Activation, HeadNorm, Product, Prompts, Quantized, Rope, Rows, Unscaled, cpp, plain
from recap_fast.generate.torch_backend.llama import rope_table

FLOAT_TYPES = [torch.float32, torch.bfloat16]
EIGHT_BITS = [torch.int8, torch.float8_e4m3fn]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def unscaled(
    rows: int, width: int, dtype: torch.dtype, sums: torch.dtype | None, seed: int = 0, size: float = 1.0
) -> tuple[Product, Tensor]:
    """A product of numbers of about this size, as one or as sums of a type with scales left; and these numbers."""
    if sums is None:
        numbers = size * random(rows, width, seed=seed, dtype=dtype)
        return numbers, numbers
    row_scale, channel_scale = (
        1 - random(*shape, seed=seed + 7).abs().clamp(max=0.9) for shape in ((rows, 1), (width,))
    )
    product = Unscaled(
        (2**10 * random(rows, width, seed=seed)).to(sums), size / 2**10 * row_scale, channel_scale, dtype
    )
    return product, plain.dequantize(product)


def check_add_rms_norm(
    ops: Any,
    dtype: torch.dtype,
    rows: int,
    width: int,
    adds: bool,
    quantize: torch.dtype | None,
    sums: torch.dtype | None = None,
    seed: int = 0,
) -> None:
    x, weight = 3 * random(rows, width, seed=seed, dtype=dtype), random(width, seed=seed + 1, dtype=dtype)
    delta, added = unscaled(rows, width, dtype, sums, seed=seed + 2) if adds else (None, torch.zeros_like(x))
    total = x + added
    got = ops.add_rms_norm(x, delta, weight, 1e-5, quantize)
    if dtype == torch.float32 and sums is not None:  # a card does not round the product before it adds it
        assert_within(x, near(total.double(), 2 * unit(dtype) * (added.abs() + total.abs()).double()))
    else:
        assert torch.equal(x, total), "the sum stays in x"
    assert (got.values if isinstance(got, Quantized) else got).dtype == (quantize or dtype)
    assert_within(got, tolerance.rms_norm(exact(x), weight, 1e-5, dtype))


def check_swiglu(
    ops: Any,
    dtype: torch.dtype,
    rows: int,
    width: int,
    quantize: torch.dtype | None,
    sums: torch.dtype | None = None,
    seed: int = 0,
) -> None:
    gate_up, numbers = unscaled(rows, 2 * width, dtype, sums, seed=seed, size=5.0)
    gate, up = map(exact, numbers.chunk(2, -1))
    assert_within(ops.swiglu(gate_up, quantize), tolerance.swiglu(gate, up, dtype))


def check_quick_gelu(
    ops: Any, dtype: torch.dtype, rows: int, width: int, quantize: torch.dtype | None, seed: int = 0
) -> None:
    x = 5 * random(rows, width, seed=seed, dtype=dtype)
    assert_within(ops.quick_gelu(x, quantize), tolerance.quick_gelu(exact(x), dtype))


def check_gelu_tanh(
    ops: Any, dtype: torch.dtype, rows: int, width: int, quantize: torch.dtype | None, seed: int = 0
) -> None:
    x = 5 * random(rows, width, seed=seed, dtype=dtype)
    assert_within(ops.gelu_tanh(x, quantize), tolerance.gelu_tanh(exact(x), dtype))


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
    has_bias: bool,
    sum_dtype: torch.dtype = torch.int32,
    seed: int = 0,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sums = torch.randint(-(2**31), 2**31 - 1, (rows, width), dtype=torch.int32, generator=generator)
    row_scale, channel_scale = random(rows, 1, seed=seed).abs() / 2**20, random(width, seed=seed + 1).abs() / 2**10
    bias = random(width, seed=seed + 2) if has_bias else None
    got = ops.dequantize(Unscaled(sums.to(sum_dtype), row_scale, channel_scale, dtype, bias))
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
    sums: torch.dtype | None = None,
    has_norm: bool = False,
    has_bias: bool = False,
    seed: int = 0,
) -> None:
    """Rows at any places, some in one slot; all else of the cache stays what it was."""
    num_slots, num_positions = 4, 13
    place = torch.randperm(num_slots * num_positions, generator=torch.Generator().manual_seed(seed))[:rows]
    places = Rows(place // num_positions, place % num_positions)
    rope = Rope(*(table.to(dtype) for table in rope_table(RopeSpec(theta=10000.0), width, num_positions)))
    qkv, numbers = unscaled(rows, (heads + 2 * kv_heads) * width, dtype, sums, seed=seed)
    product, is_exact = exact(numbers), not (has_bias and isinstance(qkv, Unscaled))
    if not is_exact:  # a card rounds once where the last scale is multiplied and a bias added
        qkv = qkv._replace(bias=random(qkv.sums.shape[1], seed=seed + 3).to(dtype).float())
        product = tolerance.dequantize(exact(qkv.sums), *qkv[1:3], qkv.bias).rounded(dtype)
    norm = HeadNorm(*(1 + random(width, seed=seed + n, dtype=dtype) for n in (4, 5)), 1e-3) if has_norm else None
    cache = random(2, num_slots, kv_heads, num_positions, width, seed=seed + 1).to(cached or dtype)
    expected = cache.clone().float()
    got = ops.rope_store(qkv, heads, rope, places, cache, norm)
    assert (got.shape, got.dtype) == ((rows, heads, width), dtype)
    product = product.map(lambda x: x.view(rows, heads + 2 * kv_heads, width))
    turned, values = [product[:, :heads], product[:, heads : heads + kv_heads]], product[:, heads + kv_heads :]
    if norm is not None:
        turned = [tolerance.rms_norm(part, norm[n], norm.eps, dtype) for n, part in enumerate(turned)]
    turned = tolerance.rotate(tolerance.join(turned, 1), *(table[places.positions, None] for table in rope), dtype)
    assert_within(got, turned[:, :heads])
    stored, kind, found = [turned[:, heads:], values], torch.finfo(cache.dtype), cache.float()
    if cache.dtype != dtype:
        least = torch.full_like(values.value, kind.smallest_normal * kind.eps / 2)
        stored = [part.rounded(cache.dtype).plus_error(least) for part in stored]
    for part, written in zip(stored, found, strict=True):
        assert_within(written[places.slots, :, places.positions], part)
    if is_exact:
        assert torch.equal(found[1, places.slots, :, places.positions], values.value.to(cache.dtype).float())
    expected[:, places.slots, :, places.positions] = found[:, places.slots, :, places.positions]
    assert torch.equal(found, expected), "what is not written"


def check_attention(
    ops: Any,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    width: int,
    positions: list[int],
    length: int,
    cached: torch.dtype | None = None,
    prompts: tuple[int, int, int] | None = None,
    is_bounded: bool = False,
    seed: int = 0,
) -> None:
    """Of prompts, if any, and of rows at these positions of a slot's `length`.

    What no row may read is NaN, or large for plain torch, which masks it; idle rows, at the last position, get zeros
    from all but plain torch.
    """
    is_plain = ops is plain or (ops is cpp and cached not in (None, dtype))
    rows = place_rows(Prompts(*prompts or (0, 0, 0)), positions)
    q = 2 * random(len(rows.slots), heads, width, seed=seed, dtype=dtype)
    num_slots = int(rows.slots.max()) + 1 if len(rows.slots) else 1
    cache = random(2, num_slots, kv_heads, length, width, seed=seed + 1).to(cached or dtype)
    readable = torch.zeros(num_slots, length, dtype=torch.bool)
    for slot, position in zip(*(index.tolist() for index in rows), strict=True):
        readable[slot, : position + 1] |= position < length - 1
    bound = 1.5 * float(cache.float().abs().max()) if is_bounded else None
    hidden = cache.float().masked_fill(
        ~readable[:, None, :, None], (bound / 2 if bound else 400.0) if is_plain else torch.nan
    )
    got = ops.attention(q, hidden.to(cache.dtype), rows, None if prompts is None else Prompts(*prompts), bound)
    idle = rows.positions == length - 1
    weights = dtype  # what softmax's weights are multiplied in
    if ops is cpp and not is_plain and (prompts is None or dtype == cpp.BY_ROW):
        weights = torch.float32
    elif not (is_plain or ops is cpp) and cache.dtype.itemsize < dtype.itemsize < 4:
        weights = torch.float16
    want = attention_in_float64(q, cache, rows, weights)
    if bound is not None:
        got, rounding = _scaled_by_bound(got, bound, want)
        want = want.plus_error(rounding)
    assert bound is not None or got.dtype == dtype
    assert_within(got[~idle], want[~idle])
    assert got[idle].isfinite().all() if is_plain else not got[idle].any()


def place_rows(prompts: Prompts, positions: list[int]) -> Rows:
    """Each prompt and each other row in a slot of its own, not in the slots' order."""
    taken = torch.arange(prompts.num + len(positions)).flip(0) + 1
    along = torch.arange(prompts.start, prompts.start + prompts.length).repeat(prompts.num)
    slots = torch.cat([taken[: prompts.num].repeat_interleave(prompts.length), taken[prompts.num :]])
    return Rows(slots, torch.cat([along, torch.tensor(positions, dtype=torch.int64)]))


def attention_in_float64(q: Tensor, cache: Tensor, rows: Rows, weights: torch.dtype) -> tolerance.Inexact:
    """[R, H * E], with the roundings of an implementation that multiplies softmax's weights in this type."""
    num_rows, heads, width = q.shape
    keys, values = (exact(part[rows.slots]) for part in cache.float())
    visible = torch.arange(cache.shape[3]) <= rows.positions[:, None, None, None]
    grouped = exact(q.view(num_rows, cache.shape[2], heads // cache.shape[2], width))
    want = tolerance.attention(grouped, keys, values, visible, weights)
    return want.map(lambda x: x.reshape(num_rows, heads * width)).rounded(q.dtype)


def _scaled_by_bound(got: Activation, bound: float, want: tolerance.Inexact) -> tuple[Tensor, Tensor]:
    """The numbers of rows in e4m3 that have the scale of a bound, and what rounding them to it costs."""
    assert isinstance(got, Quantized)
    assert got.values.dtype == torch.float8_e4m3fn
    scale = bound / 448
    assert torch.allclose(got.scale, torch.full((len(want.value), 1), scale), rtol=1e-6, atol=0.0)
    rounding = torch.maximum((want.value.abs() + want.tolerance) / 16, torch.tensor(scale * 2.0**-10))
    return got.values.double() * scale, rounding
