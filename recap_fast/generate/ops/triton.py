"""The operations of `Ops` as Triton kernels, for CUDA devices: their grids, tiles and buffers.

A launch goes to the current CUDA device: callers with several make the tensors' device current.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from recap_fast.generate.ops import Activation, Quantized, Rope, Rows
from recap_fast.generate.ops import triton_kernels as kernels

# Letters: R rows, D width, F inner width, H query heads, K key/value heads, T positions of a slot, E head width, B
# decode rows, S splits of the positions.

BY_ROW: frozenset[torch.dtype] = frozenset()
SPLIT: int = kernels.SPLIT.value


def add_rms_norm(
    x_RD: Tensor, delta_RD: Tensor | None, weight_D: Tensor, eps: float, quantize: torch.dtype | None = None
) -> Activation:
    """See `Ops.add_rms_norm`."""
    assert x_RD.is_contiguous()
    inputs = x_RD, None if delta_RD is None else delta_RD.contiguous(), weight_D, eps
    return _make_rows(kernels.add_rms_norm_kernel, inputs, x_RD.shape[1], quantize, whole_rows=True)


def swiglu(gate_up_R2F: Tensor, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.swiglu`."""
    return _make_rows(kernels.swiglu_kernel, (gate_up_R2F.contiguous(),), gate_up_R2F.shape[1] // 2, quantize)


def quick_gelu(x_RF: Tensor, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.quick_gelu`."""
    return _make_rows(kernels.quick_gelu_kernel, (x_RF.contiguous(),), x_RF.shape[1], quantize)


def quantize_rows(x_RD: Tensor, dtype: torch.dtype) -> Quantized:
    """See `Ops.quantize_rows`."""
    rows = _make_rows(kernels.quantize_kernel, (x_RD.contiguous(),), x_RD.shape[1], dtype)
    assert isinstance(rows, Quantized)
    return rows


def dequantize(
    sums_RN: Tensor, row_scale_R1: Tensor, channel_scale_N: Tensor, bias_N: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """See `Ops.dequantize`."""
    rows, width = sums_RN.shape
    out = torch.empty(rows, width, dtype=dtype, device=sums_RN.device)
    tile = 8, 512
    scales = row_scale_R1.contiguous(), channel_scale_N.contiguous()
    args = sums_RN.contiguous(), *scales, bias_N, out, rows, width, *tile
    _launch(kernels.dequantize_kernel, (triton.cdiv(rows, tile[0]), triton.cdiv(width, tile[1])), args)
    return out


def rope_store(qkv_RC: Tensor, num_heads: int, rope: Rope, rows: Rows, cache: Tensor) -> Tensor:
    """See `Ops.rope_store`."""
    assert cache.is_contiguous()
    _, _, num_kv_heads, positions, width = cache.shape
    q_RHE = qkv_RC.new_empty(len(qkv_RC), num_heads, width)
    args = qkv_RC.contiguous(), q_RHE, rope, rows, *cache, num_heads, num_kv_heads, positions, width
    _launch(kernels.rope_store_kernel, (len(qkv_RC),), args)
    return q_RHE


def decode_attention(q_BHE: Tensor, cache: Tensor, rows: Rows) -> Tensor:
    """See `Ops.decode_attention`. Idle rows get zeros.

    Split-KV ("flash decoding"): a program attends to SPLIT positions at the most, which keeps all of a card busy with
    few rows and makes long and short rows even; a second kernel joins their results. The splits depend on T alone: what
    a row gets does not depend on how many there are.
    """
    assert cache.is_contiguous()
    num_rows, heads, width = q_BHE.shape
    _, _, num_kv_heads, positions, _ = cache.shape
    splits = max(1, triton.cdiv(positions - 1, SPLIT))  # an idle row's position is not read
    partial_BHSE = torch.empty(num_rows, heads, splits, width, dtype=torch.float32, device=q_BHE.device)
    lse_BHS = partial_BHSE.new_empty(num_rows, heads, splits)
    block = 32 if q_BHE.dtype == torch.float32 else 64  # positions in shared memory at a time
    args = q_BHE.contiguous(), *cache, rows, partial_BHSE, lse_BHS, heads // num_kv_heads, positions, width, block
    _launch(kernels.decode_attention_kernel, (num_rows, num_kv_heads, splits), args)
    out = q_BHE.new_empty(num_rows, heads * width)
    args = partial_BHSE, lse_BHS, rows, out, splits, positions, width
    _launch(kernels.combine_kernel, (num_rows, heads), args, num_warps=1)
    return out


def _make_rows(
    kernel: Any, inputs: tuple[Any, ...], width: int, quantize: torch.dtype | None, *, whole_rows: bool = False
) -> Activation:
    """Runs a kernel that makes a row of `width` of every row of the first input, with a scale where it quantizes.

    In blocks, where it need not see a whole row. A thread has 16 elements: two vector loads of 16 bytes in a 16-bit
    type.
    """
    rows, scale, largest = len(inputs[0]), None, None
    out = inputs[0].new_empty(rows, width, dtype=quantize)
    block = triton.next_power_of_2(width)
    if quantize is not None:
        scale = out.new_empty(rows, 1, dtype=torch.float32)
        largest = 127.0 if quantize == torch.int8 else torch.finfo(quantize).max
    elif not whole_rows:
        block = min(block, 2048)
    args = *inputs, out, scale, width, largest, block
    _launch(kernel, (rows, triton.cdiv(width, block)), args, num_warps=min(max(block // 512, 1), 16))
    return out if scale is None else Quantized(out, scale)


def _launch(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], num_warps: int = 4) -> None:
    """Whether a product and a sum round once is said, because what Triton does otherwise changes with its version."""
    kernel[grid](*args, num_warps=num_warps, num_stages=3, enable_fp_fusion=True)
