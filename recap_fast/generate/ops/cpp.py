"""The operations of `Ops` in C++ (csrc/cpu/ops.hpp), for CPUs: float32 and bfloat16, int8 as the 8-bit type.

Each is one pass over memory, on the threads that torch runs already, and checks its tensors in C++: ValueError for a
dtype, shape or layout that it does not take. Where 8-bit floats come in, plain torch does it.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recap_fast.errors import NativeError
from recap_fast.generate.ops import Activation, HeadNorm, Product, Prompts, Quantized, Rope, Rows, Unscaled, plain

try:
    from recap_fast import _cpu_ops
except ImportError as error:
    raise NativeError(f"recap_fast._cpu_ops does not load ({error}): install recap-fast again.") from error

kernels = _cpu_ops
logger = logging.getLogger(__name__)

BY_ROW = torch.float32
"""The precision in which attention of prompts is computed row by row, and is faster so than torch's causal attention.

8 prompts of 86 rows on two threads of a Xeon with AMX take 0.55 ms, and 1.53 with torch's. In bfloat16 they take 0.67
and 0.61, and for longer prompts or wider heads torch's is twice as fast or more.
"""

# Letters: R rows, D width, F inner width, H query heads, K key/value heads, E head width, B decode rows.


def share_threads(library: Path) -> None:
    """Has the operations run on the OpenMP threads of torch's CPU library."""
    try:
        kernels.use_threads_of(str(library))
    except ValueError as error:
        logger.warning("torch's OpenMP threads cannot be shared (%s): operations in C++ run on one thread.", error)


share_threads(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")


def add_rms_norm(
    x_RD: Tensor, delta_RD: Product | None, weight_D: Tensor, eps: float, quantize: torch.dtype | None = None
) -> Activation:
    """See `Ops.add_rms_norm`. Rounds where `plain.add_rms_norm` does."""
    delta_RD = None if delta_RD is None else plain.apply_scales(delta_RD)
    return _make_rows(kernels.add_rms_norm, (x_RD, delta_RD, weight_D, eps), x_RD.shape[1], quantize)


def swiglu(gate_up_R2F: Product, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.swiglu`. Rounds where `plain.swiglu` does."""
    gate_up_R2F = plain.apply_scales(gate_up_R2F)
    return _make_rows(kernels.swiglu, (gate_up_R2F,), gate_up_R2F.shape[1] // 2, quantize)


def quick_gelu(x_RF: Tensor, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.quick_gelu`. Rounds where `plain.quick_gelu` does."""
    return _make_rows(kernels.quick_gelu, (x_RF,), x_RF.shape[1], quantize)


def gelu_tanh(x_RF: Tensor, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.gelu_tanh`. Rounds where `plain.gelu_tanh` does."""
    return _make_rows(kernels.gelu_tanh, (x_RF,), x_RF.shape[1], quantize)


def quantize_rows(x_RD: Tensor, dtype: torch.dtype) -> Quantized:
    """See `Ops.quantize_rows`."""
    if dtype != torch.int8:
        return plain.quantize_rows(x_RD, dtype)
    rows = _make_rows(kernels.quantize_rows, (x_RD,), x_RD.shape[1], dtype)
    assert isinstance(rows, Quantized)
    return rows


def dequantize(product: Unscaled) -> Tensor:
    """See `Ops.dequantize`."""
    if product.sums.dtype != torch.int32:
        return plain.dequantize(product)
    out = torch.empty(product.sums.shape, dtype=product.dtype)
    kernels.dequantize(*product[:3], product.bias, out, torch.get_num_threads())
    return out


def rope_store(
    qkv_RC: Product, num_heads: int, rope: Rope, rows: Rows, cache: Tensor, norm: HeadNorm | None = None
) -> Tensor:
    """See `Ops.rope_store`. Raises IndexError for rows outside of the cache."""
    qkv_RC = plain.apply_scales(qkv_RC)
    dtype = qkv_RC.dtype
    if cache.dtype != dtype:
        return plain.rope_store(qkv_RC, num_heads, rope, rows, cache, norm)
    queries = torch.empty(len(qkv_RC), num_heads, cache.shape[-1], dtype=dtype)
    query, key, eps = norm or (None, None, 0.0)
    inputs = qkv_RC, *rope, *rows, query, key, eps
    kernels.rope_store(*inputs, cache, queries, torch.get_num_threads())
    return queries


def attention(
    q_RHE: Tensor, cache: Tensor, rows: Rows, prompts: Prompts | None = None, bound: float | None = None
) -> Activation:
    """See `Ops.attention`: softmax and sums in float32; an idle row gets zeros. Raises IndexError for rows outside of
    the cache."""
    if cache.dtype != q_RHE.dtype:
        return plain.attention(q_RHE, cache, rows, prompts, bound)
    return plain.attend(decode_attention, q_RHE, cache, rows, None if q_RHE.dtype == BY_ROW else prompts, bound)


def decode_attention(q_BHE: Tensor, cache: Tensor, rows: Rows) -> Tensor:
    """`attention` of single rows: [B, H * E]."""
    num_rows, num_heads, width = q_BHE.shape
    out = torch.empty(num_rows, num_heads * width, dtype=q_BHE.dtype)
    kernels.decode_attention(q_BHE, cache, rows.slots, rows.positions, out, torch.get_num_threads())
    return out


def _make_rows(
    kernel: Callable[..., None], inputs: tuple[Any, ...], width: int, quantize: torch.dtype | None
) -> Activation:
    """Runs a kernel that makes a row of `width` of every row of the first input; in int8 with scales if wanted."""
    rows, is_int8 = len(inputs[0]), quantize == torch.int8
    y = torch.empty(rows, width, dtype=torch.int8 if is_int8 else inputs[0].dtype)
    scale = torch.empty(rows, 1) if is_int8 else None
    kernel(*inputs, y, scale, torch.get_num_threads())
    if scale is not None:
        return Quantized(y, scale)
    return y if quantize is None else plain.quantize_rows(y, quantize)
