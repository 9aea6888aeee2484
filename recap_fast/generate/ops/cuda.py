"""Attention of single rows in CUDA C++ (csrc/cuda). Packages that were built without CUDA use Triton's kernel.

No GPU has run this kernel yet. So each process compares it with plain torch once, before a graph is captured.
"""

import functools
import logging
from types import ModuleType

import torch
from torch import Tensor

from recap_fast.generate.device import disabled_kernels
from recap_fast.generate.ops import Rows, plain

kernels: ModuleType | None
"""None where the package was built without CUDA."""
try:
    from recap_fast import _cuda_ops
except ImportError:
    kernels = None
else:
    kernels = _cuda_ops

logger = logging.getLogger(__name__)

# Letters: B decode rows, H query heads, E head width.

TOLERANCE = 0.02
"""Largest difference from plain torch, over the largest magnitude: some roundings to bfloat16."""
TRIED_POSITIONS = 0, 14, 15, 16, 63, 64, 255, 640
"""Positions of the rows that are compared: the edges of tiles, and a usual caption."""
MAX_GROUP = 8
"""Query heads that may share a key/value head."""


def supports(q_BHE: Tensor, cache: Tensor) -> bool:
    """Whether the kernel takes these queries and this cache of one layer, and is right on this GPU."""
    shape = q_BHE.shape[1], cache.shape[2], cache.shape[4]
    return takes(q_BHE, cache) and distance(q_BHE.device, cache.dtype, *shape) <= TOLERANCE


@functools.cache
def distance(device: torch.device, cached: torch.dtype, num_heads: int, num_kv_heads: int, width: int) -> float:
    """The largest difference of the kernel from plain torch, over the largest magnitude, on random numbers.

    It is NaN where the kernel makes NaN, and infinite where it cannot be launched.
    """
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)

    count, num_positions = len(TRIED_POSITIONS), max(TRIED_POSITIONS) + 2
    rows = Rows(*torch.tensor([range(count), TRIED_POSITIONS], device=device))
    q = random(count, num_heads, width)
    cache = random(2, count, num_kv_heads, num_positions, width).to(cached)
    out = torch.full((count, num_heads * width), torch.nan, dtype=q.dtype, device=device)
    try:
        decode_attention(q, cache, rows, out)
    except RuntimeError as error:
        logger.warning("The CUDA C++ kernel is not used: %s", error)
        return float("inf")
    expected = plain.decode_attention(q, cache, rows).float()
    found = ((out.float() - expected).abs().max() / expected.abs().max()).item()
    if not found <= TOLERANCE:
        logger.warning("The CUDA C++ kernel is not used: it is off by %.3g of the largest number.", found)
    return float(found)


def takes(q_BHE: Tensor, cache: Tensor) -> bool:
    """Whether the kernel was built, is not disabled, and takes these queries and this cache of one layer."""
    if kernels is None or "cuda-kernels" in disabled_kernels():
        return False
    if q_BHE.device.type != "cuda" or cache.device != q_BHE.device:
        return False
    num_heads, num_kv_heads = q_BHE.shape[1], cache.shape[2]
    min_capability = {torch.bfloat16: (8, 0), torch.float8_e4m3fn: (8, 9)}.get(cache.dtype)
    return (
        min_capability is not None
        and q_BHE.dtype == torch.bfloat16
        and q_BHE.shape[2] == cache.shape[4]
        and cache.shape[4] in (64, 128)
        and num_heads % num_kv_heads == 0
        and num_heads <= MAX_GROUP * num_kv_heads
        and q_BHE.is_contiguous()
        and cache.is_contiguous()
        and torch.cuda.get_device_capability(q_BHE.device) >= min_capability
    )


def decode_attention(
    q_BHE: Tensor, cache: Tensor, rows: Rows, out: Tensor, scale: Tensor | None = None, bound: float | None = None
) -> None:
    """See `Ops.attention`: single rows only, and what `supports` accepts. Idle rows get zeros.

    Writes `out`, bfloat16 [B, H * E]. With a bound it writes `out`, float8_e4m3fn, and `scale`, float32 [B, 1], which
    needs compute capability 8.9.
    """
    assert kernels is not None
    num_rows, num_heads, width = q_BHE.shape
    _, _, num_kv_heads, num_positions, _ = cache.shape
    assert out.dtype == (torch.bfloat16 if scale is None else torch.float8_e4m3fn)
    assert out.shape == (num_rows, num_heads * width)
    assert (scale is None) == (bound is None)
    assert scale is None or (scale.dtype, scale.shape) == (torch.float32, (num_rows, 1))
    assert rows.slots.dtype == rows.positions.dtype == torch.int64
    assert len(rows.slots) == len(rows.positions) == num_rows
    for tensor in (q_BHE, cache, *rows, out):
        assert tensor.is_contiguous()
        assert tensor.device == q_BHE.device
    kernels.decode_attention(
        queries=q_BHE.data_ptr(),
        keys=cache[0].data_ptr(),
        values=cache[1].data_ptr(),
        slots=rows.slots.data_ptr(),
        positions=rows.positions.data_ptr(),
        out=out.data_ptr(),
        quantized=None if scale is None else (scale.data_ptr(), bound),
        in_8_bits=cache.dtype == torch.float8_e4m3fn,
        sizes=(num_rows, num_heads, num_kv_heads, num_positions, width),
        stream=_stream(q_BHE.device),
    )


def _stream(device: torch.device) -> int:
    """The handle of the device's current stream."""
    return torch.cuda.current_stream(device).cuda_stream
