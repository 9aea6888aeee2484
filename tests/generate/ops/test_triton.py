"""The Triton operations: interpreted, on a GPU, and compiled for GPUs that are not here."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compiled_kernels, operations
from support.operations import EIGHT_BITS, FLOAT_TYPES
from support.triton_interpreter import Elsewhere, interpreted
from torch import Tensor

from recap_fast.generate.ops import HeadNorm, Product, Prompts, Rope, Rows, Unscaled

pytest.importorskip("triton", reason="Triton is not installed: it exists for Linux only")

SUMS = [torch.int32, torch.bfloat16]
"""What products in 8 bits leave to their readers: of int8, and of FP8 with one scale."""


def run_on_card(name: str, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """An operation on the GPU that is here, for tensors of the CPU."""
    from recap_fast.generate.ops import triton as ops

    types = {x.dtype if isinstance(x, Tensor) else x for x in args if isinstance(x, Tensor | torch.dtype)}
    if torch.float8_e4m3fn in types and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this card has no FP8: compute capability 8.9 is needed")
    moved = _moved(args, "cuda")
    return _moved(getattr(ops, name)(*moved), "cpu"), moved


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, tuple):
        parts = [_moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.to(device) if isinstance(value, Tensor) else value


@pytest.fixture(scope="module", params=["interpreted", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
def ops(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "cuda":
        yield Elsewhere(run_on_card)
        return
    with interpreted() as elsewhere:
        yield elsewhere


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("quantize", [None, *EIGHT_BITS])
@pytest.mark.parametrize(("rows", "width"), [(0, 64), (1, 64), (5, 80), (3, 1100)])
@pytest.mark.parametrize("adds", [False, True])
def test_add_rms_norm(
    ops: Any, rows: int, width: int, dtype: torch.dtype, quantize: torch.dtype | None, adds: bool
) -> None:
    operations.check_add_rms_norm(ops, dtype, rows, width, adds, quantize)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("sums", SUMS)
@pytest.mark.parametrize("quantize", [None, *EIGHT_BITS])
def test_products_with_scales_left(
    ops: Any, dtype: torch.dtype, sums: torch.dtype, quantize: torch.dtype | None
) -> None:
    operations.check_add_rms_norm(ops, dtype, 5, 80, True, quantize, sums)
    operations.check_swiglu(ops, dtype, 5, 96, quantize, sums)
    for heads, kv_heads in ((6, 3), (0, 2)):
        for has_norm, has_bias in ((False, False), (False, True), (True, True)):
            operations.check_rope_store(ops, dtype, 5, heads, kv_heads, 48, None, sums, has_norm, has_bias)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("quantize", [None, *EIGHT_BITS])
@pytest.mark.parametrize(("rows", "width"), [(0, 64), (3, 96), (2, 2500)])
@pytest.mark.parametrize("check", [operations.check_swiglu, operations.check_quick_gelu, operations.check_gelu_tanh])
def test_activations(
    ops: Any, check: Callable[..., None], rows: int, width: int, dtype: torch.dtype, quantize: torch.dtype | None
) -> None:
    check(ops, dtype, rows, width, quantize)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("quantize", EIGHT_BITS)
@pytest.mark.parametrize(("rows", "width"), [(0, 64), (1, 16), (4, 4096)])
def test_quantize_rows(ops: Any, rows: int, width: int, dtype: torch.dtype, quantize: torch.dtype) -> None:
    operations.check_quantize_rows(ops, dtype, rows, width, quantize)


@pytest.mark.parametrize("quantize", EIGHT_BITS)
def test_ties_and_zeros(ops: Any, quantize: torch.dtype) -> None:
    operations.check_ties_and_zeros(ops, torch.float32, quantize)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("cached", [None, torch.float8_e4m3fn])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(1, 1, 16), (4, 2, 80), (8, 1, 32), (6, 3, 48), (0, 2, 64)])
@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("has_norm", [False, True])
def test_rope_store(
    ops: Any,
    rows: int,
    heads: int,
    kv_heads: int,
    width: int,
    dtype: torch.dtype,
    cached: torch.dtype | None,
    has_norm: bool,
) -> None:
    operations.check_rope_store(ops, dtype, rows, heads, kv_heads, width, cached, has_norm=has_norm)


@pytest.mark.parametrize("dtype", [*FLOAT_TYPES, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (4, 1), (16, 2), (17, 1)])
def test_attention_of_grouped_heads(ops: Any, heads: int, kv_heads: int, dtype: torch.dtype) -> None:
    operations.check_attention(ops, dtype, heads, kv_heads, 16, [0, 5, 29, 28], 30, prompts=(2, 3, 7))


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("width", [16, 80, 128])
def test_attention_over_several_splits(ops: Any, width: int, dtype: torch.dtype) -> None:
    operations.check_attention(ops, dtype, 2, 1, width, [0, 63, 64, 255, 256, 512, 598, 599], 600)


@pytest.mark.parametrize("length", [2, 3, 257, 258])
def test_attention_at_the_edges_of_a_split(ops: Any, length: int) -> None:
    operations.check_attention(ops, torch.float32, 2, 1, 16, [length - 2, 0, length - 1], length)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("is_bounded", [False, True])
def test_attention_over_a_cache_of_8_bits(ops: Any, dtype: torch.dtype, is_bounded: bool) -> None:
    operations.check_attention(
        ops, dtype, 4, 2, 64, [3, 70, 299], 300, torch.float8_e4m3fn, (2, 5, 90), is_bounded=is_bounded
    )


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("prompts", [(1, 0, 1), (1, 0, 5), (2, 1, 63), (1, 64, 64), (3, 5, 130), (1, 0, 257)])
@pytest.mark.parametrize("is_bounded", [False, True])
def test_attention_of_prompts(ops: Any, prompts: tuple[int, int, int], dtype: torch.dtype, is_bounded: bool) -> None:
    operations.check_attention(ops, dtype, 4, 2, 32, [], 300, prompts=prompts, is_bounded=is_bounded)


@pytest.mark.parametrize("positions", [[29, 29], []], ids=["idle rows alone", "no rows"])
def test_attention_of_nobody(ops: Any, positions: list[int]) -> None:
    operations.check_attention(ops, torch.bfloat16, 2, 1, 16, positions, 30)


@pytest.mark.parametrize(
    ("capability", "dtype", "quantize", "cached"),
    [
        (80, torch.float32, None, torch.float32),
        (80, torch.bfloat16, torch.int8, torch.bfloat16),
        pytest.param(90, torch.float32, None, torch.float32, marks=pytest.mark.fuzz),
        pytest.param(90, torch.bfloat16, None, torch.bfloat16, marks=pytest.mark.fuzz),
        (90, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fn),
        pytest.param(100, torch.float32, None, torch.float32, marks=pytest.mark.fuzz),
        pytest.param(100, torch.bfloat16, torch.int8, torch.bfloat16, marks=pytest.mark.fuzz),
        (100, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fn),
    ],
)
def test_kernels_compile_for_a_card(
    capability: int, dtype: torch.dtype, quantize: torch.dtype | None, cached: torch.dtype, tmp_path: Path
) -> None:
    """All that a launch at the shapes of LLaVA-LLaMA3-8B does, but for the launch: down to code of the card.

    What is compiled fits into the card's shared memory and moves 16 bytes at a time. It keeps its numbers in no more
    registers than are known of, and none in memory, but for float32's attention, which is for tests, and the sums of
    int8, which take twice the registers.
    """
    import triton

    from recap_fast.generate.ops import triton_attention, triton_kernels

    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set")
    with compiled_kernels.absent_card(capability, tmp_path) as compiled:
        run_all(dtype, quantize, cached)
    names = {name for module in (triton_attention, triton_kernels) for name in dir(module) if name.endswith("_kernel")}
    assert {kernel.name for kernel in compiled} == names.difference([] if quantize else ["quantize_kernel"])
    for kernel in compiled:
        assert kernel.shared_memory <= compiled_kernels.SHARED_MEMORY[capability], kernel.name
        assert re.search(r"ld\.global\S*\.v4\.|cp\.async\S+ .* 0x10,", kernel.ptx), kernel.name
        if dtype != torch.float32 or "attention" not in kernel.name:
            assert kernel.spilled <= (64 if (kernel.name, quantize) == ("swiglu_kernel", torch.int8) else 0), (
                kernel.name
            )
            assert kernel.registers <= compiled_kernels.REGISTERS[kernel.name], kernel.name


def run_all(dtype: torch.dtype, quantize: torch.dtype | None, cached: torch.dtype) -> None:
    """Every operation once: of two rows, and of two prompts of three rows; where there are 8 bits, of products with
    scales left as well."""
    from recap_fast.generate.ops import triton as ops

    def products(width: int) -> list[Product]:
        sums = torch.zeros(2, width, dtype=torch.int32 if quantize == torch.int8 else dtype)
        left = [Unscaled(sums, torch.ones(2, 1), torch.ones(width), dtype)] if quantize is not None else []
        return [torch.zeros(2, width, dtype=dtype), *left]

    x, weight, index = torch.zeros(2, 4096, dtype=dtype), torch.ones(4096, dtype=dtype), torch.zeros(8).long()
    rope, rows = Rope(*(torch.zeros(769, 128, dtype=dtype) for _ in range(2))), Rows(index, index)
    cache = torch.zeros(2, 1, 8, 769, 128).to(cached)
    for delta, gate_up, qkv in zip(*map(products, (4096, 28672, 6144)), strict=True):
        ops.add_rms_norm(x, delta, weight, 1e-5, quantize)
        ops.swiglu(gate_up, quantize)
        for norm in (None, HeadNorm(weight[:128], weight[:128], 1e-6)):
            ops.rope_store(qkv, 32, rope, rows, cache, norm)
            if isinstance(qkv, Unscaled):
                ops.rope_store(qkv._replace(bias=torch.ones(6144)), 32, rope, rows, cache, norm)
    ops.rope_store(torch.zeros(2, 2048, dtype=dtype), 0, rope, rows, cache)
    ops.quick_gelu(x, quantize)
    ops.gelu_tanh(x, quantize)
    if quantize is not None:
        ops.quantize_rows(x, quantize)
    bound = 1.0 if quantize == torch.float8_e4m3fn else None
    ops.attention(torch.zeros(8, 32, 128, dtype=dtype), cache, rows, Prompts(2, 3, 3), bound)
