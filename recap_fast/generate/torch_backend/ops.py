"""The few operations that the models are made of, in plain torch: the CPU path, and the truth for any faster kernel."""

import torch
from torch import Tensor
from torch.nn import functional as F

from recap_fast.generate.spec import RopeSpec

# Letters: R rows, D width, H query heads, K key/value heads, G = H / K, T positions, E head width.


class Linear:
    """y = x W^T (+ b), W as [out, in]. FP8 weights carry a scale per output channel; see `fp8_linear`.

    On a CPU the weight is reordered once into oneDNN's own layout. Torch multiplies float32 through MKL, which on AMD
    processors stays at half of what oneDNN reaches, and hands bfloat16 to oneDNN unordered at every call.
    """

    __slots__ = ("bias", "packed", "scale", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None):
        self.weight, self.bias, self.scale = weight, bias, scale
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS) if _can_pack(weight) else None

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
            return y
        if self.scale is None:
            return F.linear(x, self.weight, self.bias)
        return fp8_linear(x, self.weight, self.scale)


PACKED_ROWS = 256
"""The number of rows that the layout of packed weights is chosen for; any number may be multiplied."""


def _can_pack(weight: Tensor) -> bool:
    """Whether torch was built with oneDNN and this processor has its instructions for the weight's precision."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def fp8_linear(x_RD: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """W8A8 in e4m3: activations quantised per row, weights per output channel, products summed in float32.

    The plain form for any device: it computes what a scaled FP8 matrix product does, in float32.
    """
    x_scale = x_RD.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-12) / torch.finfo(weight.dtype).max
    quantised = (x_RD.float() / x_scale).to(weight.dtype)
    return (F.linear(quantised.float(), weight.float()) * x_scale * scale).to(x_RD.dtype)


def rms_norm(x_RD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Llama's norm: statistics in float32, the weight applied in the model's precision."""
    if x_RD.dtype == torch.float32:
        return F.rms_norm(x_RD, weight_D.shape, weight_D, eps)
    return F.rms_norm(x_RD.float(), weight_D.shape, None, eps).to(x_RD.dtype) * weight_D


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of a fused projection [R, 2F] -> [R, F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rope_table(rope: RopeSpec, head_dim: int, num_positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of every position, float32 [T, E] each, for `rotate`.

    Llama 3 (theta alone) and Llama 3.1, whose low frequencies are slowed by `factor`, those between the two marks
    smoothly so ("rope_type: llama3" of the published configurations).
    """
    inverse = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    if rope.factor is not None:
        turns = rope.original_max_positions * inverse / (2 * torch.pi)
        smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        smooth = smooth.clamp(0.0, 1.0)
        inverse = inverse / rope.factor * (1 - smooth) + inverse * smooth
    angles = torch.arange(num_positions).float()[:, None] * inverse
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def rotate(x_RHE: Tensor, cos_RE: Tensor, sin_RE: Tensor) -> Tensor:
    """Rotary position embedding in Llama's half-split layout."""
    half = x_RHE.shape[-1] // 2
    swapped = torch.cat([x_RHE[..., half:], x_RHE[..., :half]], -1)
    return x_RHE * cos_RE[:, None] + swapped * sin_RE[:, None]


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


def decode_attention(q_RHE: Tensor, k_RKTE: Tensor, v_RKTE: Tensor, mask_R11T: Tensor) -> Tensor:
    """One query position a row against its slot's cache: [R, H * E]. The mask is added: 0 or -inf.

    The G query heads that share a key/value head are given as its G query positions, so that the cache is read once.
    On a CPU written out: torch's fused form gains nothing from a second thread at so few query positions.
    """
    rows, heads, width = q_RHE.shape
    grouped = q_RHE.view(rows, k_RKTE.shape[1], -1, width)
    if grouped.device.type == "cpu":
        scores = torch.matmul(grouped * width**-0.5, k_RKTE.transpose(-1, -2)) + mask_R11T
        out = torch.matmul(scores.softmax(dim=-1, dtype=torch.float32).to(v_RKTE.dtype), v_RKTE)
    else:
        out = F.scaled_dot_product_attention(grouped, k_RKTE, v_RKTE, attn_mask=mask_R11T)
    return out.reshape(rows, heads * width)
