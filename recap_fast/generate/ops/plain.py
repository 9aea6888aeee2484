"""The operations of `Ops` in plain torch, for any device, and the two attentions over whole prompts and images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from recap_fast.generate.ops import Activation, Quantized, Rope, Rows

# Letters: n images, R rows, D width, F inner width, H query heads, K key/value heads, L new of T positions, E head
# width, B decode rows.

BY_ROW: frozenset[torch.dtype] = frozenset()
SMALLEST_SCALE = 1e-12
"""Of a row of zeros, which would otherwise be divided by zero."""


def add_rms_norm(
    x_RD: Tensor, delta_RD: Tensor | None, weight_D: Tensor, eps: float, quantize: torch.dtype | None = None
) -> Activation:
    """See `Ops.add_rms_norm`. The weight is applied in the model's precision, as transformers does it."""
    if delta_RD is not None:
        x_RD += delta_RD
    if x_RD.dtype == torch.float32:
        normed = F.rms_norm(x_RD, weight_D.shape, weight_D, eps)
    else:
        normed = F.rms_norm(x_RD.float(), weight_D.shape, None, eps).to(x_RD.dtype) * weight_D
    return normed if quantize is None else quantize_rows(normed, quantize)


def swiglu(gate_up_R2F: Tensor, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.swiglu`."""
    gate, up = gate_up_R2F.chunk(2, dim=-1)
    y = F.silu(gate) * up
    return y if quantize is None else quantize_rows(y, quantize)


def quick_gelu(x_RF: Tensor, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.quick_gelu`."""
    y = x_RF * torch.sigmoid(1.702 * x_RF)
    return y if quantize is None else quantize_rows(y, quantize)


def quantize_rows(x_RD: Tensor, dtype: torch.dtype) -> Quantized:
    """See `Ops.quantize_rows`."""
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    x_RD = x_RD.float()
    scale = x_RD.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_SCALE * largest) / largest
    scaled = x_RD / scale
    return Quantized((scaled.round_() if dtype == torch.int8 else scaled).to(dtype), scale)


def dequantize(
    sums_RN: Tensor, row_scale_R1: Tensor, channel_scale_N: Tensor, bias_N: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """See `Ops.dequantize`."""
    y = sums_RN.float() * row_scale_R1 * channel_scale_N
    return (y if bias_N is None else y + bias_N.float()).to(dtype)


def rope_store(qkv_RC: Tensor, num_heads: int, rope: Rope, rows: Rows, cache: Tensor) -> Tensor:
    """See `Ops.rope_store`."""
    num_kv_heads, width = cache.shape[2], cache.shape[4]
    heads = qkv_RC.view(len(qkv_RC), num_heads + 2 * num_kv_heads, width)
    turned = rotate(heads[:, : num_heads + num_kv_heads], rope, rows.positions)
    for part, new in zip(cache, (turned[:, num_heads:], heads[:, num_heads + num_kv_heads :]), strict=True):
        if cache.dtype == torch.float8_e4m3fn:  # the cast alone makes NaN of what is beyond
            new = new.clamp(-torch.finfo(cache.dtype).max, torch.finfo(cache.dtype).max)
        part[rows.slots, :, rows.positions] = new.to(cache.dtype)
    return turned[:, :num_heads]


def rotate(x_RHE: Tensor, rope: Rope, positions: Tensor) -> Tensor:
    """Rotary position embedding in Llama's half-split layout."""
    half = x_RHE.shape[-1] // 2
    swapped = torch.cat([x_RHE[..., half:], x_RHE[..., :half]], -1)
    return x_RHE * rope.cos[positions, None] + swapped * rope.sin[positions, None]


def decode_attention(q_BHE: Tensor, cache: Tensor, rows: Rows) -> Tensor:
    """See `Ops.decode_attention`. The query heads that share a key/value head are given as its query positions."""
    num_rows, heads, width = q_BHE.shape
    keys, values = (part[rows.slots].to(q_BHE.dtype) for part in cache)
    beyond = torch.arange(cache.shape[3], device=q_BHE.device) > rows.positions[:, None]
    mask = torch.zeros(beyond.shape, dtype=q_BHE.dtype, device=q_BHE.device).masked_fill_(beyond, float("-inf"))
    grouped = q_BHE.view(num_rows, cache.shape[2], heads // cache.shape[2], width)
    out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask[:, None, None])
    return out.reshape(num_rows, heads * width)


def prefill_attention(q_nHLE: Tensor, k_nKTE: Tensor, v_nKTE: Tensor) -> Tensor:
    """Causal attention of the newest L of T positions: [n, L, H * E].

    Queries are padded at the front with T - L zero rows, so that the problem is square and a fused causal kernel
    serves it: with fewer queries than keys, torch's `is_causal` lines up the wrong corner.
    """
    n, heads, length, width = q_nHLE.shape
    missing = k_nKTE.shape[2] - length
    padded = F.pad(q_nHLE, (0, 0, missing, 0))
    out = F.scaled_dot_product_attention(padded, k_nKTE, v_nKTE, is_causal=True, enable_gqa=True)
    return out[:, :, missing:].transpose(1, 2).reshape(n, length, heads * width)
