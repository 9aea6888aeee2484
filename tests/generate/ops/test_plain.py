"""The operations beside their definitions, in float64 where that says more."""

import pytest
import torch
from support import tolerance
from support.tolerance import assert_within, exact

from recap_fast.generate.ops import Quantized, Rope, Rows, plain
from recap_fast.generate.spec import RopeSpec
from recap_fast.generate.torch_backend.llama import rope_table


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adds", [False, True])
def test_add_rms_norm(dtype: torch.dtype, adds: bool) -> None:
    x, weight = (3 * random(5, 64)).to(dtype), (1 + 0.1 * random(64, seed=1)).to(dtype)
    delta = random(5, 64, seed=2).to(dtype) if adds else None
    total = x if delta is None else x + delta
    got = plain.add_rms_norm(x, delta, weight, 1e-5)
    assert_within(got, tolerance.rms_norm(exact(total), weight, 1e-5, dtype))
    assert torch.equal(x, total), "the sum stays in x"


def test_swiglu() -> None:
    gate, up = random(4, 8), random(4, 8, seed=1)
    assert_within(plain.swiglu(torch.cat([gate, up], -1)), tolerance.swiglu(exact(gate), exact(up)))


def test_quick_gelu() -> None:
    x = random(4, 8)
    assert_within(plain.quick_gelu(x), tolerance.quick_gelu(exact(x)))


@pytest.mark.parametrize(("dtype", "largest"), [(torch.int8, 127), (torch.float8_e4m3fn, 448)])
def test_quantized_rows(dtype: torch.dtype, largest: float) -> None:
    x = torch.cat([100 * random(3, 64), torch.zeros(1, 64)])
    values, scale = plain.quantize_rows(x, dtype)
    assert values.dtype == dtype
    assert values.float().abs().amax(-1).tolist() == [largest] * 3 + [0]
    assert_within(Quantized(values, scale), exact(x))
    norm = plain.add_rms_norm(x.clone(), None, torch.ones(64), 1e-5, dtype)
    assert torch.equal(
        norm.values, plain.quantize_rows(plain.add_rms_norm(x, None, torch.ones(64), 1e-5), dtype).values
    )
    assert torch.equal(plain.quick_gelu(x, dtype).scale, plain.quantize_rows(plain.quick_gelu(x), dtype).scale)
    assert torch.equal(plain.swiglu(x, dtype).scale, plain.quantize_rows(plain.swiglu(x), dtype).scale)


def test_int8_is_rounded_to_the_nearest_even() -> None:
    x = torch.tensor([[127.0, -127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.4]])
    values, scale = plain.quantize_rows(x, torch.int8)
    assert values.tolist() == [[127, -127, 0, 2, 2, 0, -2, 126]]
    assert scale.tolist() == [[1.0]]


@pytest.mark.parametrize("with_bias", [False, True])
def test_dequantize(with_bias: bool) -> None:
    sums = torch.tensor([[4, -2], [3, 0]], dtype=torch.int32)
    bias = torch.tensor([1.0, 2.0]) if with_bias else None
    got = plain.dequantize(sums, torch.tensor([[0.5], [2.0]]), torch.tensor([1.0, 10.0]), bias, torch.float32)
    expected = torch.tensor([[2.0, -10.0], [6.0, 0.0]]) + (0 if bias is None else bias)
    assert torch.equal(got, expected)


def test_rotation_turns_pairs_by_their_angle() -> None:
    """A frequency is off by four roundings: the power by two, the division, the product with the position."""
    rope = rope_table(RopeSpec(theta=10000.0), 8, 20)
    positions = torch.tensor([0, 7, 19])
    angles = positions[:, None] / 10000.0 ** (torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    allowed = tolerance.unit(torch.float32) * (4 * angles + 2)
    for got, expected in zip(rope, ([angles.cos()] * 2, [-angles.sin(), angles.sin()]), strict=True):
        assert_within(got[positions], tolerance.near(torch.cat(expected, -1), torch.cat([allowed, allowed], -1)))
    x = random(3, 3, 8)
    turned = tolerance.rotate(exact(x), *(table[positions, None] for table in rope))
    assert_within(plain.rotate(x, rope, positions), turned)
    a, b, angle = x[..., :4].double(), x[..., 4:].double(), angles[:, None]
    by_definition = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)
    assert (turned.value - by_definition).abs().max() < 1e-5, "pairs lie in halves"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn])
def test_rope_store_puts_keys_and_values_where_they_belong(dtype: torch.dtype) -> None:
    rope = Rope(*rope_table(RopeSpec(theta=10000.0), 8, 12))
    rows = Rows(torch.tensor([2, 0, 2]), torch.tensor([3, 11, 4]))
    qkv = random(3, (4 + 2 * 2) * 8)
    cache = torch.zeros(2, 3, 2, 12, 8, dtype=dtype)
    queries = plain.rope_store(qkv, 4, rope, rows, cache)
    heads = qkv.view(3, 8, 8)
    assert torch.equal(queries, plain.rotate(heads[:, :4], rope, rows.positions))
    keys = plain.rotate(heads[:, 4:6], rope, rows.positions).to(dtype)
    for row, (slot, position) in enumerate(zip(*rows, strict=True)):
        assert torch.equal(cache[0, slot, :, position].float(), keys[row].float())
        assert torch.equal(cache[1, slot, :, position].float(), heads[row, 6:].to(dtype).float())
    assert cache.float().count_nonzero() <= 2 * 3 * 2 * 8, "nothing else is written"
    without_queries = torch.zeros_like(cache)
    assert plain.rope_store(qkv[:, 4 * 8 :].contiguous(), 0, rope, rows, without_queries).shape == (3, 0, 8)
    assert torch.equal(without_queries.float(), cache.float())


def test_prefill_attention_sees_all_before_it() -> None:
    q, k, v = random(2, 4, 5, 8), random(2, 2, 9, 8, seed=1), random(2, 2, 9, 8, seed=2)
    got = plain.prefill_attention(q, k, v).view(2, 5, 4, 8).transpose(1, 2)
    for head in range(4):
        for row in range(5):
            visible = (slice(None), head // 2, slice(5 + row))
            expected = tolerance.attention(exact(q[:, head, row, None]), exact(k[visible]), exact(v[visible]))
            assert_within(got[:, head, row], expected[:, 0])


def test_decode_attention_reads_each_slot_to_its_position() -> None:
    q, cache = random(3, 4, 8), random(2, 5, 2, 9, 8, seed=1)
    rows = Rows(torch.tensor([4, 0, 1]), torch.tensor([0, 3, 8]))
    got = plain.decode_attention(q, cache, rows).view(3, 2, 2, 8)
    for row, (slot, position) in enumerate(zip(*rows, strict=True)):
        keys, values = (exact(part[slot, :, : position + 1]) for part in cache)
        assert_within(got[row], tolerance.attention(exact(q[row].view(2, 2, 8)), keys, values))
