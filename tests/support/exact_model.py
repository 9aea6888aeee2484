"""Decoder and vision tower in float64, a line a formula, with what float32 may lose on the way; see tolerance.py."""

from collections.abc import Iterable

import torch
from support import tolerance
from support.tolerance import Inexact, exact
from torch import Tensor
from torch.nn import functional as F

from recap_fast.generate.layout import FusedTensor
from recap_fast.generate.model_spec import TextSpec, VisionSpec
from recap_fast.generate.ops import Rows
from recap_fast.generate.torch_backend.llama import Prefill, list_rows, rope_table
from recap_fast.records import Preprocess


def random_weights(plan: Iterable[FusedTensor], seed: int) -> dict[str, Tensor]:
    """Matrices that keep the variance of what passes through them; all else near 1."""
    generator = torch.Generator().manual_seed(seed)
    noise = {tensor.name: torch.randn(tensor.shape, generator=generator) for tensor in plan}
    return {name: x / x.shape[1] ** 0.5 if x.ndim == 2 else 1 + 0.1 * x for name, x in noise.items()}


def decode(
    spec: TextSpec, weights: dict[str, Tensor], x: Inexact, cached: Tensor, prefill: Prefill | None, decode: Rows | None
) -> tuple[Inexact, Inexact]:
    """Logits of a step, and the whole cache after it, [layers, 2, slots, K, T, E]."""
    rows, stream, cache = list_rows(prefill, decode), x, exact(cached.clone())
    cos, sin = (table[rows.positions, None] for table in rope_table(spec.rope, spec.head_dim, cached.shape[-2]))
    heads = spec.num_heads, spec.num_kv_heads, spec.num_kv_heads
    for i in range(spec.num_layers):
        layer = {
            name: weights[f"text.layers.{i}.{name}.weight"]
            for name in ("norm1", "qkv", "out", "norm2", "gate_up", "down")
        }
        normed = tolerance.rms_norm(stream, layer["norm1"], spec.norm_eps)
        qkv = tolerance.linear(normed, layer["qkv"], weights.get(f"text.layers.{i}.qkv.bias"))
        qkv = qkv.map(lambda t: t.view(len(t), -1, spec.head_dim))
        q, k, v = (qkv[:, part] for part in _slices(*heads))
        if spec.qk_norm:
            norms = (weights[f"text.layers.{i}.{part}_norm.weight"] for part in "qk")
            q, k = (tolerance.rms_norm(x, norm, spec.norm_eps) for x, norm in zip((q, k), norms, strict=True))
        q, k = tolerance.rotate(q, cos, sin), tolerance.rotate(k, cos, sin)
        for part, new in enumerate((k, v)):
            _write(cache, (i, part), rows, new)
        attended = [_attend(q[first:last], cache[i], *places) for first, last, *places in _blocks(prefill, decode)]
        stream = tolerance.add(stream, tolerance.linear(tolerance.join(attended), layer["out"]))
        gate_up = tolerance.linear(tolerance.rms_norm(stream, layer["norm2"], spec.norm_eps), layer["gate_up"])
        gate, up = (gate_up.map(lambda t, n=n: t.chunk(2, -1)[n]) for n in range(2))
        stream = tolerance.add(stream, tolerance.linear(tolerance.swiglu(gate, up), layer["down"]))
    first = 0 if prefill is None else prefill.prompts.num_rows
    read = torch.arange(first, len(x.value))
    stream = stream[read if prefill is None else torch.cat([prefill.last_rows, read])]
    head = weights["text.embed.weight" if spec.tied_head else "text.head.weight"]
    return tolerance.linear(tolerance.rms_norm(stream, weights["text.norm.weight"], spec.norm_eps), head), cache


def _slices(*sizes: int) -> list[slice]:
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _write(cache: Inexact, place: tuple[int, int], rows: Rows, new: Inexact) -> None:
    for held, numbers in ((cache.value, new.value), (cache.worst, new.worst), (cache.variance, new.variance)):
        held[place][rows.slots, :, rows.positions] = numbers


def _blocks(prefill: Prefill | None, decode: Rows | None) -> list[tuple[int, int, Tensor, Tensor]]:
    """First and last row, slots [n], positions [n, L] of the prompts together, and of the captions."""
    first = 0 if prefill is None else prefill.prompts.num_rows
    blocks = []
    if prefill is not None:
        positions = torch.arange(prefill.start, prefill.start + prefill.length).expand(len(prefill.slots), -1)
        blocks.append((0, first, prefill.slots, positions))
    if decode is not None:
        blocks.append((first, first + len(decode.slots), decode.slots, decode.positions[:, None]))
    return blocks


def _attend(q: Inexact, cache: Inexact, slots: Tensor, positions: Tensor) -> Inexact:
    """Attention of n times L queries [n * L, H, E] over their slots, as far as their positions: [n * L, H * E]."""
    n, length = positions.shape
    keys, values = (cache[part][slots, :, : int(positions.max()) + 1] for part in range(2))
    num_kv_heads, num_seen, width = keys.value.shape[1:]
    group = q.value.shape[1] // num_kv_heads
    q = q.map(lambda t: t.view(n, length, num_kv_heads, group, width).permute(0, 2, 3, 1, 4).flatten(2, 3))
    visible = (torch.arange(num_seen) <= positions[..., None])[:, None].repeat(1, 1, group, 1)
    out = tolerance.attention(q, keys, values, visible)  # [n, K, G * L, E]
    return out.map(
        lambda t: t.view(n, num_kv_heads, group, length, width).permute(0, 3, 1, 2, 4).reshape(n * length, -1)
    )


def encode(spec: VisionSpec, preprocess: Preprocess, weights: dict[str, Tensor], pixels: Tensor) -> Inexact:
    """Image tokens [n, N, width of the decoder] of uint8 pixels [n, 3, H, W]."""
    mean, std = (torch.tensor(t).double()[:, None, None] for t in (preprocess.mean, preprocess.std))
    levels = pixels.double() / 255
    error = tolerance.unit(torch.float32) * (levels + mean) / std
    normalized = exact((levels - mean) / std).plus_error(error, times=5)
    side = spec.image_size // spec.patch_size * spec.patch_size
    patches = normalized.map(lambda t: F.unfold(t[..., :side, :side], spec.patch_size, stride=spec.patch_size).mT)
    x = tolerance.linear(patches, *_affine(weights, "vision.patch"))
    if spec.has_class_token:
        x = tolerance.join([exact(weights["vision.class"].expand(len(pixels), 1, -1)), x], 1)
    x = tolerance.add(x, exact(weights["vision.position"]))
    if spec.has_pre_norm:
        x = tolerance.layer_norm(x, *_affine(weights, "vision.pre_norm"), spec.norm_eps)
    for i in range(spec.num_layers):
        layer = {
            name: _affine(weights, f"vision.layers.{i}.{name}")
            for name in ("norm1", "qkv", "out", "norm2", "fc1", "fc2")
        }
        qkv = tolerance.linear(tolerance.layer_norm(x, *layer["norm1"], spec.norm_eps), *layer["qkv"])
        q, k, v = (
            qkv.map(lambda t, n=n: t.unflatten(-1, (3, spec.num_heads, -1))[:, :, n].transpose(1, 2)) for n in range(3)
        )
        attended = tolerance.attention(q, k, v).map(lambda t: t.transpose(1, 2).flatten(2))
        x = tolerance.add(x, tolerance.linear(attended, *layer["out"]))
        inner = tolerance.linear(tolerance.layer_norm(x, *layer["norm2"], spec.norm_eps), *layer["fc1"])
        x = tolerance.add(x, tolerance.linear(getattr(tolerance, spec.activation)(inner), *layer["fc2"]))
    first, second = (_affine(weights, f"projector.{n}") for n in range(2))
    read = x if spec.select == "full" else x[:, 1:]
    return tolerance.linear(tolerance.gelu(tolerance.linear(read, *first)), *second)


def _affine(weights: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor | None]:
    return weights[f"{name}.weight"], weights.get(f"{name}.bias")
