"""The Triton operations beside the plain ones: interpreted, on a GPU, and compiled for GPUs that are not here."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tolerance
from support.tolerance import assert_within, exact
from support.triton_interpreter import Interpreted
from torch import Tensor

from recap_fast.generate.ops import Quantized, Rope, Rows, plain

pytest.importorskip("triton", reason="Triton is not installed: it exists for Linux only")

FLOAT_TYPES = [torch.float32, torch.bfloat16]
EIGHT_BITS = [torch.int8, torch.float8_e4m3fn]


class OnCard:
    """The operations on the GPU that is here, for tensors of the CPU."""

    def __getattr__(self, name: str) -> Any:
        from recap_fast.generate.ops import triton as ops

        def call(*args: Any) -> Any:
            types = {x.dtype if isinstance(x, Tensor) else x for x in args if isinstance(x, Tensor | torch.dtype)}
            if torch.float8_e4m3fn in types and torch.cuda.get_device_capability() < (8, 9):
                pytest.skip("this card has no float8")
            moved = _moved(args, "cuda")
            result = getattr(ops, name)(*moved)
            for mine, its in zip(args, moved, strict=True):
                if isinstance(mine, Tensor):  # some are written to
                    mine.copy_(its)
            return _moved(result, "cpu")

        return call


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, tuple):
        parts = [_moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.to(device) if isinstance(value, Tensor) else value


@pytest.fixture(scope="module", params=["interpreted", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
def ops(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "cuda":
        yield OnCard()
        return
    with Interpreted() as interpreted:
        yield interpreted


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("quantize", [None, *EIGHT_BITS])
@pytest.mark.parametrize("shape", [(0, 64), (1, 64), (5, 80), (3, 1100)])
@pytest.mark.parametrize("added", [False, True])
def test_add_rms_norm(
    ops: Any, shape: tuple[int, int], dtype: torch.dtype, quantize: torch.dtype | None, added: bool
) -> None:
    x, weight = 3 * random(*shape, dtype=dtype), 1 + random(shape[1], seed=1, dtype=dtype) / 10
    delta = random(*shape, seed=2, dtype=dtype) if added else None
    x_too = x.clone()
    plain.add_rms_norm(x_too, delta, weight, 1e-5)
    got = ops.add_rms_norm(x, delta, weight, 1e-5, quantize)
    assert torch.equal(x, x_too)
    assert (got.values if isinstance(got, Quantized) else got).dtype == (quantize or dtype)
    assert_within(got, tolerance.rms_norm(exact(x), weight, 1e-5, dtype))


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("quantize", [None, *EIGHT_BITS])
@pytest.mark.parametrize("shape", [(0, 64), (3, 96), (2, 2500)])
def test_swiglu(ops: Any, shape: tuple[int, int], dtype: torch.dtype, quantize: torch.dtype | None) -> None:
    gate_up = 2 * random(shape[0], 2 * shape[1], dtype=dtype)
    gate, up = map(exact, gate_up.chunk(2, -1))
    assert_within(ops.swiglu(gate_up, quantize), tolerance.swiglu(gate, up, dtype))


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("quantize", [None, *EIGHT_BITS])
@pytest.mark.parametrize("shape", [(0, 64), (3, 96), (2, 2500)])
def test_quick_gelu(ops: Any, shape: tuple[int, int], dtype: torch.dtype, quantize: torch.dtype | None) -> None:
    x = 2 * random(*shape, dtype=dtype)
    assert_within(ops.quick_gelu(x, quantize), tolerance.quick_gelu(exact(x), dtype))


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("quantize", EIGHT_BITS)
@pytest.mark.parametrize("shape", [(0, 64), (1, 16), (4, 4096)])
def test_quantize_rows(ops: Any, shape: tuple[int, int], dtype: torch.dtype, quantize: torch.dtype) -> None:
    x = random(*shape, dtype=dtype) * torch.logspace(-3, 3, shape[0])[:, None].to(dtype)
    got = ops.quantize_rows(x, quantize)
    assert got.values.dtype == quantize
    assert_within(got, exact(x))


def test_int8_ties_go_to_the_even_number(ops: Any) -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]])
    assert ops.quantize_rows(x, torch.int8).values.tolist() == [[127, 0, 2, 2, 0, -2, -2, 126]]


@pytest.mark.parametrize("quantize", EIGHT_BITS)
def test_a_row_of_zeros_stays_zeros(ops: Any, quantize: torch.dtype) -> None:
    values, scale = ops.quantize_rows(torch.zeros(2, 48), quantize)
    assert not values.float().any()
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("shape", [(0, 64), (1, 16), (9, 600)])
@pytest.mark.parametrize("biased", [False, True])
def test_dequantize(ops: Any, shape: tuple[int, int], dtype: torch.dtype, biased: bool) -> None:
    sums = (1e6 * random(*shape)).int()
    row_scale, channel_scale = random(shape[0], 1, seed=1).abs() / 1e3, random(shape[1], seed=2).abs() / 1e3
    bias = random(shape[1], seed=3, dtype=dtype) if biased else None
    got = ops.dequantize(sums, row_scale, channel_scale, bias, dtype)
    assert got.dtype == dtype
    assert_within(got, tolerance.dequantize(exact(sums), row_scale, channel_scale, bias).rounded(dtype))


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("cached", [None, torch.float8_e4m3fn])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(1, 1, 16), (4, 2, 80), (8, 1, 32), (6, 3, 48), (0, 2, 64)])
def test_rope_store(
    ops: Any, heads: int, kv_heads: int, width: int, dtype: torch.dtype, cached: torch.dtype | None
) -> None:
    positions = 20
    rope = Rope(*(random(positions, width // 2, seed=s, dtype=dtype).repeat(1, 2) for s in (1, 2)))
    rope.sin[:, : width // 2].neg_()
    rows = Rows(torch.tensor([3, 0, 1, 3, 2]), torch.tensor([0, 19, 7, 18, 7]))
    qkv = random(5, (heads + 2 * kv_heads) * width, seed=3, dtype=dtype)
    cache = random(2, 4, kv_heads, positions, width, seed=4).to(cached or dtype)
    cache_too = cache.clone()
    got = ops.rope_store(qkv, heads, rope, rows, cache)
    plain.rope_store(qkv, heads, rope, rows, cache_too)
    assert (got.shape, got.dtype) == ((5, heads, width), dtype)
    turned = exact(qkv.view(5, -1, width)[:, : heads + kv_heads])
    turned = tolerance.rotate(turned, *(table[rows.positions, None] for table in rope), dtype)
    assert_within(got, turned[:, :heads])
    keys, smallest = turned[:, heads:].rounded(cache.dtype), torch.finfo(cache.dtype).smallest_normal
    keys = keys.plus_error(torch.full_like(keys.value, smallest * torch.finfo(cache.dtype).eps / 2))
    cache, cache_too = cache.float(), cache_too.float()
    assert_within(cache[0, rows.slots, :, rows.positions], keys)
    cache[0, rows.slots, :, rows.positions] = cache_too[0, rows.slots, :, rows.positions]
    assert torch.equal(cache, cache_too), "the values, and what is not written"


def test_rope_store_of_no_rows_writes_nothing(ops: Any) -> None:
    rope, rows = Rope(random(9, 16), random(9, 16)), Rows(*(torch.zeros(0, dtype=torch.int64) for _ in range(2)))
    cache = random(2, 1, 2, 9, 16)
    before = cache.clone()
    assert ops.rope_store(random(0, 8 * 16), 4, rope, rows, cache).shape == (0, 4, 16)
    assert torch.equal(cache, before)


def check_decode_attention(
    ops: Any, heads: int, kv_heads: int, width: int, positions: list[int], length: int, *dtypes: torch.dtype
) -> None:
    """Beside plain attention. What no row may read is NaN; rows at position `length` - 1 are idle and get zeros."""
    count = len(positions)
    q = random(count, heads, width, seed=1, dtype=dtypes[0])
    cache = random(2, count + 1, kv_heads, length, width, seed=2).to(dtypes[-1])
    rows = Rows(torch.arange(count).flip(0) + 1, torch.tensor(positions))
    keys, values = (exact(part[rows.slots]) for part in cache.float())
    visible = torch.arange(length) <= rows.positions[:, None, None, None]
    weights = torch.float16 if cache.dtype.itemsize < q.dtype.itemsize < 4 else q.dtype
    want = tolerance.attention(exact(q.view(count, kv_heads, -1, width)), keys, values, visible, weights)
    want = want.map(lambda x: x.flatten(1)).rounded(q.dtype)
    readable = torch.zeros(count + 1, length, dtype=torch.bool)
    for slot, position in zip(rows.slots.tolist(), positions, strict=True):
        readable[slot, : position + 1] = position < length - 1
    poisoned = cache.float().masked_fill(~readable[:, None, :, None], float("nan")).to(dtypes[-1])
    got = ops.decode_attention(q, poisoned, rows)
    idle = rows.positions == length - 1
    assert got.dtype == q.dtype
    assert_within(got[~idle], want[~idle])
    assert not got[idle].any()


@pytest.mark.parametrize("dtype", [*FLOAT_TYPES, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (4, 1), (16, 2), (17, 1)])
def test_decode_attention_of_grouped_heads(ops: Any, heads: int, kv_heads: int, dtype: torch.dtype) -> None:
    check_decode_attention(ops, heads, kv_heads, 16, [0, 5, 29, 28], 30, dtype)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("width", [16, 80, 128])
def test_decode_attention_over_several_splits(ops: Any, width: int, dtype: torch.dtype) -> None:
    check_decode_attention(ops, 2, 1, width, [0, 63, 64, 255, 256, 512, 598, 599], 600, dtype)


@pytest.mark.parametrize("length", [2, 3, 257, 258])
def test_decode_attention_at_the_edges_of_a_split(ops: Any, length: int) -> None:
    check_decode_attention(ops, 2, 1, 16, [length - 2, 0, length - 1], length, torch.float32)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_decode_attention_over_a_cache_of_8_bits(ops: Any, dtype: torch.dtype) -> None:
    check_decode_attention(ops, 4, 2, 64, [3, 70, 299], 300, dtype, torch.float8_e4m3fn)


def test_decode_attention_of_idle_rows_alone_and_of_none(ops: Any) -> None:
    check_decode_attention(ops, 2, 1, 16, [29, 29], 30, torch.bfloat16)
    nowhere = Rows(*(torch.zeros(0, dtype=torch.int64) for _ in range(2)))
    assert ops.decode_attention(random(0, 4, 16), random(2, 1, 2, 9, 16), nowhere).shape == (0, 64)


SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes that a block may have, by compute capability: CUDA C++ Programming Guide, table of technical specifications."""


class AbsentCard:
    """Stands for Triton's driver of a card of a compute capability."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> str:
        return f"absent sm_{self.capability}"

    def get_current_stream(self, device: str) -> int:
        return 0


@pytest.mark.parametrize(
    ("capability", "dtype", "quantize", "cached"),
    [
        pytest.param(90, torch.float32, None, torch.float32, marks=pytest.mark.fuzz),
        pytest.param(90, torch.bfloat16, None, torch.bfloat16, marks=pytest.mark.fuzz),
        (90, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fn),
        (80, torch.float32, None, torch.float32),
        (80, torch.bfloat16, torch.int8, torch.bfloat16),
    ],
)
def test_kernels_compile_for_a_card(
    capability: int,
    dtype: torch.dtype,
    quantize: torch.dtype | None,
    cached: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """All that a launch at the shapes of LLaVA-LLaMA3-8B does, but for the launch: down to code of the card.

    What is compiled fits into the card's shared memory and moves 16 bytes at a time.
    """
    import triton

    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set")
    compiled = []

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        compiled.append(run(kernel, *args, grid=grid, warmup=True, **options))

    run = triton.JITFunction.run
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.JITFunction, "run", compile_only)
    monkeypatch.setattr(triton.runtime.driver, "_active", AbsentCard(capability))
    run_all(dtype, quantize, cached)
    assert len(compiled) == 7 + (quantize is not None) + (quantize == torch.int8)
    for kernel in compiled:
        assert kernel.asm["cubin"]
        assert kernel.metadata.shared <= SHARED_MEMORY[capability]
        assert re.search(r"ld\.global\S*\.v4\.|cp\.async\S+ .* 0x10,", kernel.asm["ptx"])


def run_all(dtype: torch.dtype, quantize: torch.dtype | None, cached: torch.dtype) -> None:
    """Every operation once, two rows each."""
    from recap_fast.generate.ops import triton as ops

    x, weight, index = torch.zeros(2, 4096, dtype=dtype), torch.ones(4096, dtype=dtype), torch.zeros(2).long()
    ops.add_rms_norm(x, x.clone(), weight, 1e-5, quantize)
    ops.swiglu(torch.zeros(2, 28672, dtype=dtype), quantize)
    ops.quick_gelu(x, quantize)
    if quantize is not None:
        ops.quantize_rows(x, quantize)
    if quantize == torch.int8:
        ops.dequantize(x.int(), torch.ones(2, 1), weight.float(), weight, dtype)
    rope, rows = Rope(*(torch.zeros(769, 128, dtype=dtype) for _ in range(2))), Rows(index, index)
    cache = torch.zeros(2, 1, 8, 769, 128).to(cached)
    for heads in (32, 0):
        ops.rope_store(torch.zeros(2, (heads + 16) * 128, dtype=dtype), heads, rope, rows, cache)
    ops.decode_attention(x.view(2, 32, 128), cache, rows)
