"""The operations in C++ beside those in plain torch, of random shapes."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import tolerance
from support.tolerance import assert_within, exact
from torch import Tensor

from recap_fast.generate.ops import Quantized, Rope, Rows, cpp, plain

pytestmark = pytest.mark.usefixtures("kernel_level")

DTYPES = [torch.float32, torch.bfloat16]
BOTH = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])

rows_and_width = {"rows": st.integers(0, 40), "width": st.integers(1, 150), "seed": st.integers(0, 99)}


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def random_places(num_slots: int, num_positions: int, seed: int) -> Rows:
    """A row for each slot, in some order, the first at position 0 and the second at the last that is not idle."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randint(0, num_positions - 1, (num_slots,), generator=generator)
    positions[:1], positions[1:2] = 0, num_positions - 2
    return Rows(torch.randperm(num_slots, generator=generator), positions)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """As many threads as before for the tests after it."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@BOTH
@given(**rows_and_width, adds=st.booleans(), quantize=st.sampled_from([None, torch.int8, torch.float8_e4m3fn]))
def test_add_rms_norm(
    dtype: torch.dtype, rows: int, width: int, seed: int, adds: bool, quantize: torch.dtype | None
) -> None:
    x, weight = random(rows, width, seed=seed, dtype=dtype), random(width, seed=seed + 1, dtype=dtype)
    delta = random(rows, width, seed=seed + 2, dtype=dtype) if adds else None
    expected_x = x.clone()
    plain.add_rms_norm(expected_x, delta, weight, 1e-5)
    got = cpp.add_rms_norm(x, delta, weight, 1e-5, quantize)
    assert torch.equal(x, expected_x)
    assert (got.values if isinstance(got, Quantized) else got).dtype == (quantize or dtype)
    assert_within(got, tolerance.rms_norm(exact(expected_x), weight, 1e-5, dtype))


@BOTH
@given(**rows_and_width, quantize=st.sampled_from([None, torch.int8]))
def test_swiglu(dtype: torch.dtype, rows: int, width: int, seed: int, quantize: torch.dtype | None) -> None:
    gate_up = 5 * random(rows, 2 * width, seed=seed, dtype=dtype)
    gate, up = map(exact, gate_up.chunk(2, -1))
    assert_within(cpp.swiglu(gate_up, quantize), tolerance.swiglu(gate, up, dtype))


def test_swiglu_is_exact_for_every_size_of_gate() -> None:
    gate = torch.cat([torch.linspace(-85, 85, 4001), torch.tensor([-1e30, -500.0, -100.0, 100.0, 500.0, 1e30])])
    got = cpp.swiglu(torch.cat([gate, torch.ones_like(gate)])[None])[0]
    beyond = torch.where(gate < -85, 1.001 * gate.abs().double() * math.exp(-86), 0.0)  # the exponential stops there
    assert_within(got, tolerance.swiglu(exact(gate), exact(torch.ones_like(gate))).plus_error(beyond))


@BOTH
@given(**rows_and_width, quantize=st.sampled_from([None, torch.int8]))
def test_quick_gelu(dtype: torch.dtype, rows: int, width: int, seed: int, quantize: torch.dtype | None) -> None:
    x = 5 * random(rows, width, seed=seed, dtype=dtype)
    assert_within(cpp.quick_gelu(x, quantize), tolerance.quick_gelu(exact(x), dtype))


def test_what_is_not_a_number_stays_so() -> None:
    x = random(3, 40, seed=0)
    x[1, 7] = torch.nan
    for dtype in DTYPES:
        normed = cpp.add_rms_norm(x.to(dtype), None, torch.ones(40, dtype=dtype), 1e-5)
        assert normed.isnan().all(-1).tolist() == [False, True, False]
        scale = cpp.quantize_rows(x.to(dtype), torch.int8).scale
        assert scale[:, 0].isnan().tolist() == [False, True, False]
        assert cpp.quick_gelu(x.to(dtype)).isnan().any(-1).tolist() == [False, True, False]
        assert cpp.swiglu(x.to(dtype)).isnan().any(-1).tolist() == [False, True, False]


@BOTH
@given(**rows_and_width, magnitude=st.sampled_from([1e-20, 1e-3, 1.0, 1e20]))
def test_quantize_rows(dtype: torch.dtype, rows: int, width: int, seed: int, magnitude: float) -> None:
    x = magnitude * random(rows, width, seed=seed, dtype=dtype)
    got = cpp.quantize_rows(x, torch.int8)
    assert torch.equal(got.scale, plain.quantize_rows(x, torch.int8).scale)
    assert_within(got, exact(x))


@BOTH
def test_quantize_rows_to_the_nearest_ties_to_even(dtype: torch.dtype) -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127.0], [0.0] * 8], dtype=dtype)
    values, scale = cpp.quantize_rows(x, torch.int8)
    assert values.tolist() == [[127, 0, 2, 2, 0, -2, -2, -127], [0] * 8]
    assert scale[0] == 1.0
    assert scale[1] > 0.0


@BOTH
@given(
    **rows_and_width,
    bias_dtype=st.sampled_from([None, *DTYPES]),
    sum_dtype=st.sampled_from([torch.int32, torch.float32]),
)
def test_dequantize(
    dtype: torch.dtype, rows: int, width: int, seed: int, bias_dtype: torch.dtype | None, sum_dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sums = torch.randint(-(2**31), 2**31 - 1, (rows, width), dtype=torch.int32, generator=generator)
    row_scale, channel_scale = random(rows, 1, seed=seed).abs() / 2**20, random(width, seed=seed + 1).abs() / 2**10
    bias = None if bias_dtype is None else random(width, seed=seed + 2, dtype=bias_dtype)
    got = cpp.dequantize(sums.to(sum_dtype), row_scale, channel_scale, bias, dtype)
    assert got.dtype == dtype
    assert_within(got, tolerance.dequantize(exact(sums), row_scale, channel_scale, bias).rounded(dtype))


@BOTH
@given(
    num_slots=st.integers(1, 20),
    num_heads=st.integers(0, 9),
    num_kv_heads=st.integers(1, 4),
    half_width=st.sampled_from([1, 4, 8, 20, 40, 64]),
    seed=st.integers(0, 99),
)
def test_rope_store(
    dtype: torch.dtype, num_slots: int, num_heads: int, num_kv_heads: int, half_width: int, seed: int
) -> None:
    width, num_positions = 2 * half_width, 13
    qkv = random(num_slots, (num_heads + 2 * num_kv_heads) * width, seed=seed, dtype=dtype)
    rope = Rope(*random(2, num_positions, width, seed=seed + 1, dtype=dtype))
    cache = random(2, num_slots, num_kv_heads, num_positions, width, seed=seed + 2, dtype=dtype)
    rows, expected_cache = random_places(num_slots, num_positions, seed), cache.clone()
    plain.rope_store(qkv, num_heads, rope, rows, expected_cache)
    got = cpp.rope_store(qkv, num_heads, rope, rows, cache)
    assert got.shape == (num_slots, num_heads, width)
    assert got.is_contiguous()
    heads = exact(qkv.view(num_slots, -1, width)[:, : num_heads + num_kv_heads])
    turned = tolerance.rotate(heads, *(table[rows.positions, None] for table in rope), dtype)
    assert_within(got, turned[:, :num_heads])
    assert_within(cache[0, rows.slots, :, rows.positions], turned[:, num_heads:])
    cache[0, rows.slots, :, rows.positions] = expected_cache[0, rows.slots, :, rows.positions]
    assert torch.equal(cache, expected_cache), "the values, and what is not written"


def test_no_rows_go_nowhere() -> None:
    rope, rows = Rope(*random(2, 9, 16, seed=0)), Rows(*torch.zeros(2, 0).long())
    cache = torch.ones(2, 3, 2, 9, 16)
    queries = cpp.rope_store(torch.ones(0, 8 * 16), 4, rope, rows, cache)
    assert queries.shape == (0, 4, 16)
    assert cpp.decode_attention(queries, cache, rows).shape == (0, 64)
    assert (cache == 1).all()


@BOTH
@given(
    num_rows=st.integers(1, 12),
    num_kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 4, 7, 8]),
    width=st.sampled_from([2, 16, 24, 32, 64, 80, 96, 128]),
    num_positions=st.integers(2, 150),
    seed=st.integers(0, 99),
)
def test_decode_attention(
    dtype: torch.dtype, num_rows: int, num_kv_heads: int, group: int, width: int, num_positions: int, seed: int
) -> None:
    q = 2 * random(num_rows, num_kv_heads * group, width, seed=seed, dtype=dtype)
    cache = random(2, num_rows, num_kv_heads, num_positions, width, seed=seed + 1, dtype=dtype)
    rows = random_places(num_rows, num_positions, seed)
    keys, values = (exact(part[rows.slots]) for part in cache)
    visible = torch.arange(num_positions) <= rows.positions[:, None, None, None]
    out = tolerance.attention(exact(q.view(num_rows, num_kv_heads, group, width)), keys, values, visible)
    assert_within(cpp.decode_attention(q, cache, rows), out.map(lambda x: x.flatten(1)).rounded(dtype))


@BOTH
def test_decode_attention_reads_no_position_after_its_own(dtype: torch.dtype) -> None:
    q, cache = random(3, 4, 16, seed=0, dtype=dtype), random(2, 3, 2, 90, 16, seed=1, dtype=dtype)
    rows = Rows(torch.arange(3), torch.tensor([0, 17, 63]))
    expected = cpp.decode_attention(q, cache, rows)
    for slot, position in enumerate(rows.positions):
        cache[:, slot, :, position + 1 :] = torch.nan
    assert torch.equal(cpp.decode_attention(q, cache, rows), expected)


@BOTH
def test_idle_rows_are_finite(dtype: torch.dtype) -> None:
    cache = torch.full((2, 3, 2, 9, 16), torch.nan, dtype=dtype)
    out = cpp.decode_attention(random(3, 4, 16, seed=0, dtype=dtype), cache, Rows(torch.arange(3), torch.full((3,), 8)))
    assert out.isfinite().all()


@BOTH
def test_any_number_of_threads_gives_the_same_bits(dtype: torch.dtype) -> None:
    rows, width = 301, 1030
    x, weight = random(rows, width, seed=0, dtype=dtype), random(width, seed=1, dtype=dtype)
    sums, scale = torch.arange(rows * width, dtype=torch.int32).view(rows, width), random(rows, 1, seed=2)
    q, cache = random(33, 8, 64, seed=3, dtype=dtype), random(2, 33, 4, 300, 64, seed=4, dtype=dtype)
    rope, places = Rope(*random(2, 300, 64, seed=5, dtype=dtype)), random_places(33, 300, seed=6)
    qkv = random(33, 64 * 64, seed=7, dtype=dtype)

    def everything() -> list[Tensor]:
        stored = cache.clone()
        return [
            cpp.add_rms_norm(x.clone(), x, weight, 1e-5),
            *cpp.add_rms_norm(x.clone(), None, weight, 1e-5, torch.int8),
            cpp.swiglu(x),
            *cpp.swiglu(x, torch.int8),
            cpp.quick_gelu(x),
            *cpp.quick_gelu(x, torch.int8),
            *cpp.quantize_rows(x, torch.int8),
            cpp.dequantize(sums, scale, weight.float(), None, dtype),
            cpp.rope_store(qkv, 56, rope, places, stored),
            stored,
            cpp.decode_attention(q, cache, places),
        ]

    torch.set_num_threads(1)
    expected = everything()
    for num_threads in (2, 3, 5):
        torch.set_num_threads(num_threads)
        for got, one_thread in zip(everything(), expected, strict=True):
            assert torch.equal(got, one_thread)


def test_a_cache_of_8_bit_floats_is_left_to_plain_torch() -> None:
    q, places = random(3, 4, 16, seed=0), random_places(3, 9, seed=1)
    cache = random(2, 3, 2, 9, 16, seed=2).to(torch.float8_e4m3fn)
    expected_cache = cache.clone()
    qkv, rope = random(3, 8 * 16, seed=3), Rope(*random(2, 9, 16, seed=4))
    got = cpp.rope_store(qkv, 4, rope, places, cache)
    assert torch.equal(got, plain.rope_store(qkv, 4, rope, places, expected_cache))
    assert torch.equal(cache.float(), expected_cache.float())
    assert torch.equal(cpp.decode_attention(q, cache, places), plain.decode_attention(q, cache, places))
    assert cpp.quantize_rows(q[0], torch.float8_e4m3fn).values.dtype == torch.float8_e4m3fn


@pytest.mark.parametrize(("slot", "position"), [(-1, 0), (3, 0), (0, -1), (0, 9)])
def test_places_outside_of_the_cache_are_refused(slot: int, position: int) -> None:
    cache, rope = torch.zeros(2, 3, 2, 9, 16), Rope(torch.ones(9, 16), torch.zeros(9, 16))
    rows = Rows(torch.tensor([0, slot]), torch.tensor([0, position]))
    message = rf"row 1 is at slot {slot}, position {position} of a cache of 3 slots of 9 positions"
    with pytest.raises(IndexError, match=message):
        cpp.rope_store(torch.ones(2, 6 * 16), 2, rope, rows, cache)
    with pytest.raises(IndexError, match=message):
        cpp.decode_attention(torch.ones(2, 2, 16), cache, rows)
    assert not cache.any()


def test_tensors_of_another_kind_are_refused() -> None:
    x, weight = torch.ones(4, 6), torch.ones(6)
    with pytest.raises(
        ValueError, match=r"quantize_rows: x is torch.float32 \[6, 4\] with strides \(1, 6\) on cpu, expected"
    ):
        cpp.quantize_rows(x.T, torch.int8)
    with pytest.raises(
        ValueError, match=r"weight is torch.bfloat16 \[6\] with .* on cpu, expected contiguous float32 \[6\] on cpu"
    ):
        cpp.add_rms_norm(x, None, weight.bfloat16(), 1e-5)
    with pytest.raises(
        ValueError, match=r"delta is torch.float32 \[3, 6\] .*, expected contiguous float32 \[4, 6\] on cpu"
    ):
        cpp.add_rms_norm(x, x[:3], weight, 1e-5)
    with pytest.raises(ValueError, match=r"expected contiguous float32 or bfloat16 \[rows, 2 \* width\] on cpu"):
        cpp.swiglu(x.double())
    with pytest.raises(ValueError, match="odd number of columns"):
        cpp.swiglu(x[:, :5].contiguous())
    with pytest.raises(ValueError, match="query heads cannot share the key/value heads"):
        cpp.decode_attention(torch.ones(1, 3, 16), torch.zeros(2, 1, 2, 9, 16), Rows(*torch.zeros(2, 1).long()))


def test_torchs_threads_are_shared(caplog: pytest.LogCaptureFixture) -> None:
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    with caplog.at_level(logging.WARNING):
        cpp.share_threads(library)
        assert not caplog.records
        cpp.share_threads(library.with_name("no_such_library.so"))
    assert "operations in C++ run on one thread" in caplog.text


def test_a_level_that_the_processor_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="this processor has no kernels of level v9"):
        cpp.kernels.use_kernels("v9")
