"""The operations of `Ops` in plain torch, for any device."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from recap_fast.generate.ops import Activation, HeadNorm, Product, Prompts, Quantized, Rope, Rows, Unscaled

# Letters: n prompts of L new positions each, R rows, D width, F inner width, H query heads, K key/value heads, T
# positions, E head width, B decode rows.

SMALLEST_SCALE = 1e-12
"""Of a row of zeros, which would otherwise be divided by zero."""


def add_rms_norm(
    x_RD: Tensor, delta_RD: Product | None, weight_D: Tensor, eps: float, quantize: torch.dtype | None = None
) -> Activation:
    """See `Ops.add_rms_norm`."""
    if delta_RD is not None:
        x_RD += apply_scales(delta_RD)
    normed = rms_norm(x_RD, weight_D, eps)
    return normed if quantize is None else quantize_rows(normed, quantize)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Of the last dimension. The weight is applied in the model's precision, as transformers does it."""
    if x.dtype == torch.float32:
        return F.rms_norm(x, weight.shape, weight, eps)
    return F.rms_norm(x.float(), weight.shape, None, eps).to(x.dtype) * weight


def swiglu(gate_up_R2F: Product, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.swiglu`."""
    gate, up = apply_scales(gate_up_R2F).chunk(2, dim=-1)
    y = F.silu(gate) * up
    return y if quantize is None else quantize_rows(y, quantize)


def quick_gelu(x_RF: Tensor, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.quick_gelu`."""
    y = x_RF * torch.sigmoid(1.702 * x_RF)
    return y if quantize is None else quantize_rows(y, quantize)


def gelu_tanh(x_RF: Tensor, quantize: torch.dtype | None = None) -> Activation:
    """See `Ops.gelu_tanh`. In float32, rounded once."""
    y = F.gelu(x_RF, approximate="tanh")
    return y if quantize is None else quantize_rows(y, quantize)


def quantize_rows(x_RD: Tensor, dtype: torch.dtype) -> Quantized:
    """See `Ops.quantize_rows`."""
    largest = largest_number(dtype)
    x_RD = x_RD.float()
    scale = x_RD.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_SCALE * largest) / largest
    scaled = x_RD / scale
    return Quantized((scaled.round_() if dtype == torch.int8 else scaled).to(dtype), scale)


def largest_number(dtype: torch.dtype) -> float:
    """What the largest number of a row becomes in an 8-bit type: 127 or 448."""
    return 127.0 if dtype == torch.int8 else torch.finfo(dtype).max


def dequantize(product: Unscaled) -> Tensor:
    """See `Ops.dequantize`."""
    y_RN = product.sums.float() * product.row_scale * product.channel_scale
    return (y_RN if product.bias is None else y_RN + product.bias).to(product.dtype)


def apply_scales(product: Product) -> Tensor:
    """The numbers of a product, with its scales applied if it has some left."""
    return product if isinstance(product, Tensor) else dequantize(product)


def rope_store(
    qkv_RC: Product, num_heads: int, rope: Rope, rows: Rows, cache: Tensor, norm: HeadNorm | None = None
) -> Tensor:
    """See `Ops.rope_store`."""
    num_kv_heads, width = cache.shape[2], cache.shape[4]
    heads = apply_scales(qkv_RC).view(-1, num_heads + 2 * num_kv_heads, width)
    queries, keys, values = torch.split(heads, [num_heads, num_kv_heads, num_kv_heads], 1)
    if norm is not None:
        queries, keys = rms_norm(queries, norm.query, norm.eps), rms_norm(keys, norm.key, norm.eps)
    queries, keys = (rotate(x, rope, rows.positions) for x in (queries, keys))
    for part, new in zip(cache, (keys, values), strict=True):
        if cache.dtype == torch.float8_e4m3fn:  # the cast alone makes NaN of what is beyond
            new = new.clamp(-torch.finfo(cache.dtype).max, torch.finfo(cache.dtype).max)
        part[rows.slots, :, rows.positions] = new.to(cache.dtype)
    return queries


def rotate(x_RHE: Tensor, rope: Rope, positions: Tensor) -> Tensor:
    """Rotary position embedding in Llama's half-split layout."""
    half = x_RHE.shape[-1] // 2
    swapped = torch.cat([x_RHE[..., half:], x_RHE[..., :half]], -1)
    return x_RHE * rope.cos[positions, None] + swapped * rope.sin[positions, None]


def attention(
    q_RHE: Tensor, cache: Tensor, rows: Rows, prompts: Prompts | None = None, bound: float | None = None
) -> Activation:
    """See `Ops.attention`."""
    return attend(decode_attention, q_RHE, cache, rows, prompts, bound)


def attend(
    decode: Callable[[Tensor, Tensor, Rows], Tensor],
    q_RHE: Tensor,
    cache: Tensor,
    rows: Rows,
    prompts: Prompts | None,
    bound: float | None,
) -> Activation:
    """`Ops.attention` of prompts by `prefill_attention`, and of other rows by `decode`: [B, H, E] to [B, H * E]."""
    split, parts = 0, []
    if prompts is not None:
        split = prompts.num_rows
        parts.append(prefill_attention(q_RHE[:split], cache, rows.slots[: split : prompts.length], prompts))
    if split < len(q_RHE) or not parts:
        parts.append(decode(q_RHE[split:], cache, Rows(rows.slots[split:], rows.positions[split:])))
    out_RD = torch.cat(parts) if len(parts) > 1 else parts[0]
    if bound is None:
        return out_RD
    scale = bound / torch.finfo(torch.float8_e4m3fn).max
    values = (out_RD.float() / scale).to(torch.float8_e4m3fn)
    return Quantized(values, torch.full((len(out_RD), 1), scale, device=out_RD.device))


def decode_attention(q_BHE: Tensor, cache: Tensor, rows: Rows) -> Tensor:
    """`attention` of single rows: [B, H * E].

    Query heads that share a key/value head are given to torch as query positions of one head.
    """
    num_rows, heads, width = q_BHE.shape
    keys, values = (part[rows.slots].to(q_BHE.dtype) for part in cache)
    beyond = torch.arange(cache.shape[3], device=q_BHE.device) > rows.positions[:, None]
    mask = torch.zeros(beyond.shape, dtype=q_BHE.dtype, device=q_BHE.device).masked_fill_(beyond, float("-inf"))
    grouped = q_BHE.view(num_rows, cache.shape[2], heads // cache.shape[2], width)
    out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask[:, None, None])
    return out.reshape(num_rows, heads * width)


def prefill_attention(q_RHE: Tensor, cache: Tensor, slots_n: Tensor, prompts: Prompts) -> Tensor:
    """`attention` of whole prompts: [R, H * E].

    Queries are padded at the front with `start` zero rows, so that the problem is square and a fused causal kernel
    serves it: with fewer queries than keys, torch's `is_causal` lines up the wrong corner.
    """
    num, start, length = prompts
    held = cache.view(torch.uint8) if cache.dtype == torch.float8_e4m3fn else cache  # not every torch can index e4m3
    k_nKTE, v_nKTE = held[:, slots_n, :, : start + length].view(cache.dtype).to(q_RHE.dtype)
    q_nLHE = q_RHE.view(num, length, *q_RHE.shape[1:])
    padded_nHTE = F.pad(q_nLHE, (0, 0, 0, 0, start, 0)).transpose(1, 2)
    out_nHTE = F.scaled_dot_product_attention(padded_nHTE, k_nKTE, v_nKTE, is_causal=True, enable_gqa=True)
    return out_nHTE[:, :, start:].transpose(1, 2).reshape(len(q_RHE), -1)
