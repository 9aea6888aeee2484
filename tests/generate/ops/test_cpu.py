"""The operations on CPUs, in plain torch and in C++, of random shapes beside float64; what is C++'s alone."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import operations, tolerance
from support.operations import EIGHT_BITS, FLOAT_TYPES, random
from support.tolerance import assert_within, exact
from torch import Tensor

from recap_fast.generate.model_spec import RopeSpec
from recap_fast.generate.ops import HeadNorm, Rope, Rows, Unscaled, cpp, plain
from recap_fast.generate.torch_backend.llama import rope_table

BOTH = pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=["float32", "bfloat16"])
LEVELS = cpp.kernels.kernel_levels()

rows_and_width = {"rows": st.integers(0, 40), "width": st.integers(1, 150), "seed": st.integers(0, 99)}
quantized = st.sampled_from([None, *EIGHT_BITS])
sums = st.sampled_from([None, torch.int32, torch.bfloat16])


@pytest.fixture(scope="module", params=["plain", *LEVELS])
def ops(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Plain torch, and C++ with each level of instructions that the processor has."""
    if request.param == "plain":
        yield plain
        return
    cpp.kernels.use_kernels(request.param)
    yield cpp
    cpp.kernels.use_kernels(LEVELS[0])


@BOTH
@given(**rows_and_width, adds=st.booleans(), quantize=quantized, sums=sums)
def test_add_rms_norm(ops: Any, dtype: torch.dtype, **drawn: Any) -> None:
    operations.check_add_rms_norm(ops, dtype, **drawn)


@BOTH
@given(**rows_and_width, quantize=quantized, sums=sums)
def test_swiglu(ops: Any, dtype: torch.dtype, **drawn: Any) -> None:
    operations.check_swiglu(ops, dtype, **drawn)


@BOTH
@given(**rows_and_width, quantize=quantized)
def test_quick_gelu(ops: Any, dtype: torch.dtype, **drawn: Any) -> None:
    operations.check_quick_gelu(ops, dtype, **drawn)


@BOTH
@given(**rows_and_width, quantize=quantized)
def test_gelu_tanh(ops: Any, dtype: torch.dtype, **drawn: Any) -> None:
    operations.check_gelu_tanh(ops, dtype, **drawn)


@BOTH
@given(**rows_and_width, magnitude=st.sampled_from([1e-20, 1e-3, 1.0, 1e20]), quantize=st.sampled_from(EIGHT_BITS))
def test_quantize_rows(ops: Any, dtype: torch.dtype, **drawn: Any) -> None:
    operations.check_quantize_rows(ops, dtype, **drawn)


@BOTH
@pytest.mark.parametrize("quantize", EIGHT_BITS)
def test_ties_and_zeros(ops: Any, dtype: torch.dtype, quantize: torch.dtype) -> None:
    operations.check_ties_and_zeros(ops, dtype, quantize)


@BOTH
@given(
    **rows_and_width,
    has_bias=st.booleans(),
    sum_dtype=st.sampled_from([torch.int32, torch.float32]),
)
def test_dequantize(ops: Any, dtype: torch.dtype, **drawn: Any) -> None:
    operations.check_dequantize(ops, dtype, **drawn)


@BOTH
@given(
    rows=st.integers(0, 20),
    heads=st.integers(0, 9),
    kv_heads=st.integers(1, 4),
    width=st.sampled_from([2, 8, 16, 40, 80, 128]),
    cached=st.sampled_from([None, None, torch.float8_e4m3fn]),
    sums=sums,
    has_norm=st.booleans(),
    has_bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rope_store(ops: Any, dtype: torch.dtype, **drawn: Any) -> None:
    operations.check_rope_store(ops, dtype, **drawn)


@BOTH
@given(
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 4, 7, 8]),
    width=st.sampled_from([2, 16, 24, 32, 64, 80, 96, 128]),
    length=st.integers(2, 150),
    places=st.lists(st.floats(0, 1), max_size=12),
    cached=st.sampled_from([None, None, torch.float8_e4m3fn]),
    prompts=st.none() | st.tuples(st.integers(1, 3), st.floats(0, 1), st.floats(0, 1)),
    is_bounded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_attention(
    ops: Any,
    dtype: torch.dtype,
    kv_heads: int,
    group: int,
    length: int,
    places: list[float],
    prompts: tuple[int, float, float] | None,
    **drawn: Any,
) -> None:
    positions = [round(place * (length - 1)) for place in places]
    if prompts is not None:  # they end before the last position
        start = round(prompts[1] * (length - 2))
        prompts = prompts[0], start, 1 + round(prompts[2] * (length - 2 - start))
    operations.check_attention(
        ops, dtype, kv_heads * group, kv_heads, positions=positions, length=length, prompts=prompts, **drawn
    )


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
    a, b, angle = x[..., :4].double(), x[..., 4:].double(), angles[:, None]
    by_definition = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)
    assert (turned.value - by_definition).abs().max() < 1e-5, "pairs lie in halves"


@pytest.mark.usefixtures("kernel_level")
def test_swiglu_in_cpp_is_exact_for_every_size_of_gate() -> None:
    gate = torch.cat([torch.linspace(-85, 85, 4001), torch.tensor([-1e30, -500.0, -100.0, 100.0, 500.0, 1e30])])
    got = cpp.swiglu(torch.cat([gate, torch.ones_like(gate)])[None])[0]
    beyond = torch.where(gate < -85, 1.001 * gate.abs().double() * math.exp(-86), 0.0)  # the exponential stops there
    assert_within(got, tolerance.swiglu(exact(gate), exact(torch.ones_like(gate))).plus_error(beyond))


@pytest.mark.usefixtures("kernel_level")
def test_what_is_not_a_number_stays_so() -> None:
    x = random(3, 40)
    x[1, 7] = torch.nan
    for dtype in FLOAT_TYPES:
        normed = cpp.add_rms_norm(x.to(dtype), None, torch.ones(40, dtype=dtype), 1e-5)
        assert normed.isnan().all(-1).tolist() == [False, True, False]
        scale = cpp.quantize_rows(x.to(dtype), torch.int8).scale
        assert scale[:, 0].isnan().tolist() == [False, True, False]
        assert cpp.quick_gelu(x.to(dtype)).isnan().any(-1).tolist() == [False, True, False]
        assert cpp.gelu_tanh(x.to(dtype)).isnan().any(-1).tolist() == [False, True, False]
        assert cpp.swiglu(x.to(dtype)).isnan().any(-1).tolist() == [False, True, False]


@BOTH
@pytest.mark.usefixtures("kernel_level", "same_threads")
def test_any_number_of_threads_gives_the_same_bits(dtype: torch.dtype) -> None:
    rows, width = 301, 1030
    x, weight = random(rows, width, dtype=dtype), random(width, seed=1, dtype=dtype)
    sums, scale = torch.arange(rows * width, dtype=torch.int32).view(rows, width), random(rows, 1, seed=2)
    q, cache = random(33, 8, 64, seed=3, dtype=dtype), random(2, 33, 4, 300, 64, seed=4, dtype=dtype)
    rope, places = Rope(*random(2, 300, 64, seed=5, dtype=dtype)), Rows(torch.arange(33), torch.arange(33) * 9)
    qkv = random(33, 64 * 64, seed=7, dtype=dtype)
    norm = HeadNorm(*random(2, 64, seed=8, dtype=dtype), 1e-5)

    def everything() -> list[Tensor]:
        stored = cache.clone()
        return [
            cpp.add_rms_norm(x.clone(), x, weight, 1e-5),
            *cpp.add_rms_norm(x.clone(), None, weight, 1e-5, torch.int8),
            cpp.swiglu(x),
            *cpp.swiglu(x, torch.int8),
            cpp.quick_gelu(x),
            *cpp.quick_gelu(x, torch.int8),
            cpp.gelu_tanh(x),
            *cpp.gelu_tanh(x, torch.int8),
            *cpp.quantize_rows(x, torch.int8),
            cpp.dequantize(Unscaled(sums, scale, weight.float(), dtype)),
            cpp.rope_store(qkv, 56, rope, places, cache.clone(), norm),
            cpp.rope_store(qkv, 56, rope, places, stored),
            stored,
            cpp.attention(q, cache, places),
        ]

    torch.set_num_threads(1)
    expected = everything()
    for num_threads in (2, 3, 5):
        torch.set_num_threads(num_threads)
        for got, one_thread in zip(everything(), expected, strict=True):
            assert torch.equal(got, one_thread)


def test_attention_over_a_cache_of_8_bit_floats_is_left_to_plain_torch() -> None:
    q, places = random(3, 4, 16), Rows(torch.tensor([2, 0, 1]), torch.tensor([0, 7, 3]))
    cache = random(2, 3, 2, 9, 16, seed=2).to(torch.float8_e4m3fn)
    assert torch.equal(cpp.attention(q, cache, places), plain.decode_attention(q, cache, places))


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
