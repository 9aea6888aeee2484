"""The operations of `Ops` as Triton kernels, for CUDA devices: their grids, tiles and buffers.

A launch goes to the current CUDA device: callers with several make the tensors' device current.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from recap_fast.generate.ops import Activation, HeadNorm, Product, Prompts, Quantized, Rope, Rows, cuda, plain
from recap_fast.generate.ops import triton_attention as attention_kernels
from recap_fast.generate.ops import triton_kernels as kernels

# Letters: R rows, D width, F inner width, H query heads, K key/value heads, T positions of a slot, E head width, B
# decode rows, S splits of the positions.

SPLIT: int = attention_kernels.SPLIT.value
SHARED_SCALES = 2
"""Rows for which a program of SwiGLU reads the channels' scales once: as many as fit the registers. With sums in int32,
which take twice as many registers, it is one row."""


class PrefillTile(NamedTuple):
    """How attention of prompts is split among programs of four warps."""

    rows: int
    """Queries of a program: positions times the heads that share keys and values."""
    positions: int
    """Keys and values in shared memory at a time."""
    stages: int = 3
    registers: int | None = None
    """Of a thread, at most."""


PREFILL_TILES = {1: PrefillTile(64, 64, 2, 168), 2: PrefillTile(64, 32), 4: PrefillTile(32, 32)}
"""By bytes of a number in the cache: the fastest on an H200. With 168 registers three programs fit a multiprocessor."""

dequantize = plain.dequantize  # the engine does not call it on a GPU


def add_rms_norm(
    x_RD: Tensor, delta_RD: Product | None, weight_D: Tensor, eps: float, quantize: torch.dtype | None = None
) -> Activation:
    """See `Ops.add_rms_norm`."""
    assert x_RD.is_contiguous()
    inputs = x_RD, _parts(delta_RD), weight_D, eps
    return _make_rows(kernels.add_rms_norm_kernel, inputs, x_RD.shape, x_RD.dtype, quantize, whole_rows=True)


def swiglu(gate_up_R2F: Product, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.swiglu`. No decoder has biases there."""
    gate_up, dtype = _parts(gate_up_R2F), gate_up_R2F.dtype
    assert gate_up.bias is None
    rows, width = gate_up.sums.shape
    shared = SHARED_SCALES if gate_up.row_scale is not None and gate_up.sums.dtype.itemsize == 2 else 1
    inputs = gate_up, rows, shared, TYPES[dtype]
    return _make_rows(kernels.swiglu_kernel, inputs, (rows, width // 2), dtype, quantize, rows_each=shared)


def quick_gelu(x_RF: Tensor, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.quick_gelu`."""
    return _make_rows(kernels.quick_gelu_kernel, (x_RF.contiguous(),), x_RF.shape, x_RF.dtype, quantize)


def gelu_tanh(x_RF: Tensor, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.gelu_tanh`."""
    return _make_rows(kernels.gelu_tanh_kernel, (x_RF.contiguous(),), x_RF.shape, x_RF.dtype, quantize)


def quantize_rows(x_RD: Tensor, dtype: torch.dtype) -> Quantized:
    """See `Ops.quantize_rows`."""
    rows = _make_rows(kernels.quantize_kernel, (x_RD.contiguous(),), x_RD.shape, x_RD.dtype, dtype)
    assert isinstance(rows, Quantized)
    return rows


def rope_store(
    qkv_RC: Product, num_heads: int, rope: Rope, rows: Rows, cache: Tensor, norm: HeadNorm | None = None
) -> Tensor:
    """See `Ops.rope_store`."""
    assert cache.is_contiguous()
    _, _, num_kv_heads, positions, width = cache.shape
    qkv = _parts(qkv_RC)
    num_rows = len(qkv.sums)
    q_RHE = torch.empty(num_rows, num_heads, width, dtype=qkv_RC.dtype, device=cache.device)
    args = qkv, q_RHE, rope, norm or _NO_NORM, rows, *cache, num_heads, num_kv_heads, positions, width
    _launch(kernels.rope_store_kernel, (num_rows,), args)
    return q_RHE


def attention(
    q_RHE: Tensor, cache: Tensor, rows: Rows, prompts: Prompts | None = None, bound: float | None = None
) -> Activation:
    """See `Ops.attention`. The kernels of prompts and of single rows write to one buffer. Idle rows get zeros."""
    assert cache.is_contiguous()
    num_rows, heads, width = q_RHE.shape
    q_RHE, split = q_RHE.contiguous(), 0 if prompts is None else prompts.num_rows
    out = torch.empty(num_rows, heads * width, dtype=q_RHE.dtype, device=q_RHE.device)
    scale = None
    if bound is not None:
        out = torch.empty_like(out, dtype=torch.float8_e4m3fn)
        scale = torch.empty(num_rows, 1, device=out.device)
    if prompts is not None:
        target = out[:split], None if scale is None else scale[:split], bound
        _attend_prompts(q_RHE[:split], cache, rows.slots, prompts, target)
    if split < num_rows:
        rest = Rows(rows.slots[split:], rows.positions[split:])
        target = out[split:], None if scale is None else scale[split:], bound
        attend_rows = cuda.decode_attention if cuda.supports(q_RHE, cache) else _attend_rows
        attend_rows(q_RHE[split:], cache, rest, *target)
    return out if scale is None else Quantized(out, scale)


def _attend_prompts(
    q_RHE: Tensor, cache: Tensor, slots: Tensor, prompts: Prompts, target: tuple[Tensor, Tensor | None, float | None]
) -> None:
    """Attention of whole prompts: each program computes a block of rows, and reads keys and values from the cache.

    `target` is output, scales and bound, as `_attend_rows` takes them.
    """
    _, heads, width = q_RHE.shape
    num_kv_heads, positions = cache.shape[2:4]
    tile = PREFILL_TILES[cache.dtype.itemsize]
    block_positions = max(1, tile.rows // triton.next_power_of_2(heads // num_kv_heads))
    shape = prompts.length, heads, num_kv_heads, positions, width, dot_type(q_RHE, cache)
    args = q_RHE, *cache, slots, *target[:2], _factor(target[2]), prompts.start, *shape, block_positions, tile.positions
    grid = triton.cdiv(prompts.length, block_positions), num_kv_heads, prompts.num
    _launch(attention_kernels.prefill_attention_kernel, grid, args, num_stages=tile.stages, maxnreg=tile.registers)


def _attend_rows(
    q_BHE: Tensor, cache: Tensor, rows: Rows, out: Tensor, scale: Tensor | None, bound: float | None
) -> None:
    """Attention of single rows, to `out`; with a bound `out` is in 8 bits, and `scale` gets a scale for each row.

    Split-KV ("flash decoding"): a program attends to at most SPLIT positions, which keeps a GPU busy with few rows, and
    evenly so with rows of different lengths. A second kernel joins the results. The splits depend on T alone, so that
    a row's result does not depend on how many rows there are.
    """
    num_rows, heads, width = q_BHE.shape
    num_kv_heads, positions = cache.shape[2:4]
    splits = max(1, triton.cdiv(positions - 1, SPLIT))  # an idle row's position is not read
    partial_BHSE = torch.empty(num_rows, heads, splits, width, dtype=torch.float32, device=q_BHE.device)
    lse_BHS = partial_BHSE.new_empty(num_rows, heads, splits)
    block = 32 if q_BHE.dtype == torch.float32 else 64  # positions in shared memory at a time
    shape = heads // num_kv_heads, positions, width, dot_type(q_BHE, cache)
    args = q_BHE, *cache, rows, partial_BHSE, lse_BHS, *shape, block
    _launch(attention_kernels.decode_attention_kernel, (num_rows, num_kv_heads, splits), args)
    args = partial_BHSE, lse_BHS, rows, out, scale, _factor(bound), splits, positions, width
    _launch(attention_kernels.combine_kernel, (num_rows, heads), args, num_warps=1)


def _factor(bound: float | None) -> float:
    """What takes numbers within the bound to the range of e4m3; 1 without a bound."""
    return 1.0 if bound is None else plain.largest_number(torch.float8_e4m3fn) / bound


def dot_type(q: Tensor, cache: Tensor) -> Any:
    """The type of the factors of attention's products. float16 has all numbers of e4m3, and they are converted to it
    faster than to bfloat16."""
    return TYPES[torch.float16 if cache.dtype.itemsize == 1 and q.dtype.itemsize == 2 else q.dtype]


TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class _Parts(NamedTuple):
    """A product as an argument of kernels: its numbers, or its sums, scales and bias; all None where there is none.

    Triton 3.6 compares parts of a tuple with None, but no tuple.
    """

    sums: Any = None
    row_scale: Tensor | None = None
    channel_scale: Tensor | None = None
    bias: Tensor | None = None


class _NoNorm(NamedTuple):
    """A `HeadNorm` that is none, as an argument of kernels."""

    query: None = None
    key: None = None
    eps: float = 0.0


_NO_NORM = _NoNorm()


def _parts(product: Product | None) -> _Parts:
    if product is None:
        return _Parts()
    if isinstance(product, Tensor):
        return _Parts(product.contiguous())
    return _Parts(
        product.sums.contiguous(), product.row_scale.contiguous(), product.channel_scale.contiguous(), product.bias
    )


def _make_rows(
    kernel: Any,
    inputs: tuple[Any, ...],
    shape: Sequence[int],
    dtype: torch.dtype,
    quantize: torch.dtype | None,
    *,
    whole_rows: bool = False,
    rows_each: int = 1,
) -> Activation:
    """Runs a kernel that makes rows of this shape, with a scale for each where it quantizes.

    A program makes `rows_each` rows, or a block of their columns if it need not see whole rows. A thread has 16
    elements: two vector loads of 16 bytes in a 16-bit type.
    """
    (rows, width), scale, largest = shape, None, None
    first = inputs[0] if isinstance(inputs[0], Tensor) else inputs[0].sums
    out = torch.empty(rows, width, dtype=quantize or dtype, device=first.device)
    block = triton.next_power_of_2(width)
    if quantize is not None:
        scale, largest = torch.empty(rows, 1, device=out.device), plain.largest_number(quantize)
    elif not whole_rows:
        block = min(block, 2048)
    args = *inputs, out, scale, width, largest, block
    grid = triton.cdiv(rows, rows_each), triton.cdiv(width, block)
    _launch(kernel, grid, args, num_warps=min(max(block // 512, 1), 16))
    return out if scale is None else Quantized(out, scale)


def _launch(
    kernel: Any,
    grid: tuple[int, ...],
    args: tuple[Any, ...],
    num_warps: int = 4,
    num_stages: int = 3,
    maxnreg: int | None = None,
) -> None:
    """Whether a product and a sum round once is said, because what Triton does otherwise changes with its version."""
    options = {"num_warps": num_warps, "num_stages": num_stages, "maxnreg": maxnreg}
    kernel[grid](*args, **options, enable_fp_fusion=True)
