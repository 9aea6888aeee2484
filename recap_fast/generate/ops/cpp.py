"""The operations of `Ops` in C++ (csrc/cpu/ops.hpp), for CPUs: float32 and bfloat16, int8 as the 8-bit type.

Each is one pass over memory, on the threads that torch runs already. Where 8-bit floats come in, plain torch does it.
"""

import ctypes
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from recap_fast.errors import NativeError
from recap_fast.generate.ops import Activation, Quantized, Rope, Rows, plain

try:
    from recap_fast import _cpu_ops
except ImportError as error:
    raise NativeError(f"recap_fast._cpu_ops does not load ({error}): install recap-fast again.") from error

core = _cpu_ops
logger = logging.getLogger(__name__)

BY_ROW: frozenset[torch.dtype] = frozenset([torch.float32])
"""8 prompts of 86 rows, two threads of a Xeon with AMX: 0.55 ms, torch's fused attention 1.53. In bfloat16 0.67 and
0.61, and for longer prompts or wider heads torch's is twice as fast or more."""

WHOLE: frozenset[torch.dtype] = frozenset([torch.float32])

# Letters: R rows, D width, F inner width, H query heads, K key/value heads, E head width, B decode rows.


def find_threads(library: Path) -> tuple[int, int]:
    """The addresses of `GOMP_parallel` and `omp_get_num_threads` in the OpenMP runtime that torch's CPU library is
    linked to; 0 for none.

    libgomp has both, and for compatibility LLVM's and Intel's runtime.
    """
    try:
        runtime = ctypes.CDLL(str(library))
        entries = runtime.GOMP_parallel, runtime.omp_get_num_threads
    except (OSError, AttributeError) as error:
        logger.warning("torch's OpenMP threads cannot be shared (%s): operations in C++ run on one thread.", error)
        return 0, 0
    start, count = (ctypes.cast(entry, ctypes.c_void_p).value or 0 for entry in entries)
    return start, count


core.set_parallel(*find_threads(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))


def add_rms_norm(
    x_RD: Tensor, delta_RD: Tensor | None, weight_D: Tensor, eps: float, quantize: torch.dtype | None = None
) -> Activation:
    """See `Ops.add_rms_norm`. Rounds where `plain.add_rms_norm` does."""
    rows, width = x_RD.shape
    dtype = x_RD.dtype
    y, scale = _empty_rows(rows, width, dtype, quantize)
    core.add_rms_norm(
        _is_bfloat16(dtype),
        rows,
        width,
        address(x_RD, dtype, (rows, width)),
        0 if delta_RD is None else address(delta_RD, dtype, (rows, width)),
        address(weight_D, dtype, (width,)),
        eps,
        y.data_ptr(),
        0 if scale is None else scale.data_ptr(),
        torch.get_num_threads(),
    )
    return _as_activation(y, scale, quantize)


def swiglu(gate_up_R2F: Tensor, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.swiglu`. Rounds where `plain.swiglu` does."""
    columns = gate_up_R2F.shape[1]
    if columns % 2:
        raise ValueError(f"{columns} columns cannot be halved into gate and up")
    return _map_rows(core.swiglu, gate_up_R2F, columns // 2, quantize)


def quick_gelu(x_RF: Tensor, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.quick_gelu`. Rounds where `plain.quick_gelu` does."""
    return _map_rows(core.quick_gelu, x_RF, x_RF.shape[1], quantize)


def quantize_rows(x_RD: Tensor, dtype: torch.dtype) -> Quantized:
    """See `Ops.quantize_rows`."""
    if dtype != torch.int8:
        return plain.quantize_rows(x_RD, dtype)
    rows = _map_rows(core.quantize_rows, x_RD, x_RD.shape[1], dtype)
    assert isinstance(rows, Quantized)
    return rows


def dequantize(
    sums_RN: Tensor, row_scale_R1: Tensor, channel_scale_N: Tensor, bias_N: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """See `Ops.dequantize`. Sums may be in float32 too; a bias that is in float32 is not converted at each call."""
    rows, width = sums_RN.shape
    float_sums = sums_RN.dtype == torch.float32
    out = torch.empty(rows, width, dtype=dtype)
    bias_N = None if bias_N is None else bias_N.float()
    core.dequantize(
        _is_bfloat16(dtype),
        rows,
        width,
        float_sums,
        address(sums_RN, torch.float32 if float_sums else torch.int32, (rows, width)),
        address(row_scale_R1, torch.float32, (rows, 1)),
        address(channel_scale_N, torch.float32, (width,)),
        0 if bias_N is None else address(bias_N, torch.float32, (width,)),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def rope_store(qkv_RC: Tensor, num_heads: int, rope: Rope, rows: Rows, cache: Tensor) -> Tensor:
    """See `Ops.rope_store`. Raises IndexError for rows outside of the cache."""
    dtype = qkv_RC.dtype
    if cache.dtype != dtype:
        return plain.rope_store(qkv_RC, num_heads, rope, rows, cache)
    shape, num_rows = cache.shape, len(qkv_RC)
    _, _, num_kv_heads, num_positions, width = shape
    if width % 2:
        raise ValueError(f"heads of width {width} have no halves to rotate")
    queries = torch.empty(num_rows, num_heads, width, dtype=dtype)
    core.rope_store(
        _is_bfloat16(dtype),
        num_heads,
        num_rows,
        address(qkv_RC, dtype, (num_rows, (num_heads + 2 * num_kv_heads) * width)),
        address(rope.cos, dtype, (num_positions, width)),
        address(rope.sin, dtype, (num_positions, width)),
        place_addresses(rows, num_rows),
        (address(cache, dtype, (2, *shape[1:])), shape),
        queries.data_ptr(),
        torch.get_num_threads(),
    )
    return queries


def decode_attention(q_BHE: Tensor, cache: Tensor, rows: Rows) -> Tensor:
    """See `Ops.decode_attention`: softmax and sums in float32; an idle row gets zeros. Raises IndexError for rows
    outside of the cache."""
    dtype = q_BHE.dtype
    if cache.dtype != dtype:
        return plain.decode_attention(q_BHE, cache, rows)
    num_rows, num_heads, width = q_BHE.shape
    shape = cache.shape
    if num_heads % shape[2]:
        raise ValueError(f"{num_heads} query heads cannot share {shape[2]} key/value heads evenly")
    out = torch.empty(num_rows, num_heads * width, dtype=dtype)
    core.decode_attention(
        _is_bfloat16(dtype),
        num_heads,
        num_rows,
        address(q_BHE, dtype, (num_rows, num_heads, width)),
        place_addresses(rows, num_rows),
        (address(cache, dtype, (2, *shape[1:4], width)), shape),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def pack(weight_ND: Tensor, shape: tuple[int, int], *, pairs: bool = False) -> Tensor:
    """A float32 matrix [N, D] as native_llama.py and native_tower.py have it; `pairs` for a fused gate and up.

    Raises ValueError for one of another shape.
    """
    columns, depth = shape
    weight_ND = weight_ND.contiguous()
    packed = torch.empty(core.packed_size(columns, depth))
    core.pack(
        columns,
        depth,
        pairs,
        address(weight_ND, torch.float32, (columns, depth)),
        packed.data_ptr(),
        torch.get_num_threads(),
    )
    return packed


def _map_rows(kernel: Callable[..., None], x_RC: Tensor, width: int, quantize: torch.dtype | None) -> Activation:
    """Runs a kernel that makes a row of `width` of every row of `x`."""
    rows, columns = x_RC.shape
    y, scale = _empty_rows(rows, width, x_RC.dtype, quantize)
    kernel(
        _is_bfloat16(x_RC.dtype),
        rows,
        width,
        address(x_RC, x_RC.dtype, (rows, columns)),
        y.data_ptr(),
        0 if scale is None else scale.data_ptr(),
        torch.get_num_threads(),
    )
    return _as_activation(y, scale, quantize)


def _empty_rows(
    rows: int, width: int, dtype: torch.dtype, quantize: torch.dtype | None
) -> tuple[Tensor, Tensor | None]:
    """What a kernel writes rows to: in int8 with scales where these are wanted."""
    if quantize == torch.int8:
        return torch.empty(rows, width, dtype=torch.int8), torch.empty(rows, 1)
    return torch.empty(rows, width, dtype=dtype), None


def _as_activation(y: Tensor, scale: Tensor | None, quantize: torch.dtype | None) -> Activation:
    if scale is not None:
        return Quantized(y, scale)
    return y if quantize is None else plain.quantize_rows(y, quantize)


def _is_bfloat16(dtype: torch.dtype) -> bool:
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"activations are {dtype}, not float32 or bfloat16")
    return dtype == torch.bfloat16


def address(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Where a tensor's elements are, one after another. Raises ValueError unless it is what C++ takes it for."""
    if tensor.dtype != dtype or tensor.shape != shape or not tensor.is_contiguous() or not tensor.is_cpu:
        layout = "contiguous" if tensor.is_contiguous() else "strided"
        raise ValueError(
            f"a {layout} tensor {list(tensor.shape)} of {tensor.dtype} on {tensor.device} was given, not a contiguous "
            f"one {list(shape)} of {dtype} on the CPU"
        )
    return tensor.data_ptr()


def place_addresses(rows: Rows, num_rows: int) -> tuple[int, int]:
    """Where slots and positions are."""
    shape = (num_rows,)
    return address(rows.slots, torch.int64, shape), address(rows.positions, torch.int64, shape)
