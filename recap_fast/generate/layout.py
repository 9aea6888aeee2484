"""The tensors of an engine, in the order of its file, from the shapes of its model alone.

`plan_weights` says which there are and which of a checkpoint's they are made of; `stored_tensors` how one of them lies
in weights.safetensors. A linear layer in 8 bits is float8_e4m3fn or int8 [N, K] and a float32 `<name>.scale` [N]:
weight = stored * scale, as `torch_backend.linear.quantize_channels` makes them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from recap_fast.generate.spec import EngineSpec, Precision, TextSpec, VisionSpec


@dataclass(frozen=True, slots=True)
class EightBits:
    """A precision of 8 bits a weight, with a scale for each output channel."""

    dtype: torch.dtype
    multiple: int
    """torch's products (`_scaled_mm`, `_int_mm`) take sides that are multiples of this."""


EIGHT_BITS: Mapping[str, EightBits] = {
    "fp8": EightBits(torch.float8_e4m3fn, 16),
    "int8": EightBits(torch.int8, 8),
}


@dataclass(frozen=True, slots=True)
class FusedTensor:
    """A tensor of the engine: the checkpoint's `sources`, one below the other, seen as `shape`."""

    name: str
    sources: Mapping[str, tuple[int, ...]]
    """The checkpoint's tensors by our names, with the shapes that they must have there."""
    shape: tuple[int, ...]
    is_text_linear: bool = False
    """A linear layer of the language model: what 8 bits are for."""
    is_optional: bool = False
    """A bias that the checkpoint has none of is zero."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the file has it."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Of its data."""
        return math.prod(self.shape) * self.dtype.itemsize


def plan_weights(vision: VisionSpec, text: TextSpec, *, projector_bias: bool = True) -> list[FusedTensor]:
    """The tensors of an engine of these shapes; without `projector_bias` the checkpoint has none."""
    plan = [*_vision(vision), *_projector(text.hidden_size, vision.hidden_size, projector_bias), *_text(text)]
    if not text.tied_head:
        plan.append(_same("text.head.weight", "head.weight", text.vocab_size, text.hidden_size))
    return plan


def stored_tensors(tensor: FusedTensor, precision: Precision) -> list[StoredTensor]:
    """What the file has of a tensor: itself, and after it its scales where it is in 8 bits."""
    if precision not in EIGHT_BITS:
        return [StoredTensor(tensor.name, getattr(torch, precision), tensor.shape)]
    if not tensor.is_text_linear:
        return [StoredTensor(tensor.name, torch.bfloat16, tensor.shape)]
    scale = f"{tensor.name.removesuffix('.weight')}.scale"
    return [
        StoredTensor(tensor.name, EIGHT_BITS[precision].dtype, tensor.shape),
        StoredTensor(scale, torch.float32, tensor.shape[:1]),
    ]


def weight_bytes(spec: EngineSpec) -> int:
    """Bytes of an engine's tensors, by its shapes and precision."""
    plan = plan_weights(spec.vision, spec.text)
    return sum(stored.num_bytes for tensor in plan for stored in stored_tensors(tensor, spec.precision))


def _pair(name: str, source: str, *shape: int) -> list[FusedTensor]:
    """A weight of this shape and its bias."""
    return [
        FusedTensor(f"{name}.weight", {f"{source}.weight": shape}, shape),
        FusedTensor(f"{name}.bias", {f"{source}.bias": shape[:1]}, shape[:1]),
    ]


def _vision(spec: VisionSpec) -> list[FusedTensor]:
    width, inner, patch = spec.hidden_size, spec.intermediate_size, spec.patch_size
    patch_shape = (width, 3, patch, patch)
    plan = [
        FusedTensor(
            "vision.patch.weight", {"vision.embeddings.patch_embedding.weight": patch_shape}, (width, 3 * patch**2)
        ),
        FusedTensor("vision.class", {"vision.embeddings.class_embedding": (width,)}, (width,)),
        FusedTensor(
            "vision.position",
            {"vision.embeddings.position_embedding.weight": (spec.num_image_tokens + 1, width)},
            (spec.num_image_tokens + 1, width),
        ),
        *_pair("vision.pre_norm", "vision.pre_layrnorm", width),
    ]
    for i in range(spec.num_layers):
        ours, theirs = f"vision.layers.{i}", f"vision.encoder.layers.{i}"
        projections = [f"{theirs}.self_attn.{p}_proj" for p in "qkv"]
        plan += [
            *_pair(f"{ours}.norm1", f"{theirs}.layer_norm1", width),
            FusedTensor(f"{ours}.qkv.weight", {f"{p}.weight": (width, width) for p in projections}, (3 * width, width)),
            FusedTensor(f"{ours}.qkv.bias", {f"{p}.bias": (width,) for p in projections}, (3 * width,)),
            *_pair(f"{ours}.out", f"{theirs}.self_attn.out_proj", width, width),
            *_pair(f"{ours}.norm2", f"{theirs}.layer_norm2", width),
            *_pair(f"{ours}.fc1", f"{theirs}.mlp.fc1", inner, width),
            *_pair(f"{ours}.fc2", f"{theirs}.mlp.fc2", width, inner),
        ]
    return plan


def _projector(width: int, image_width: int, has_bias: bool) -> list[FusedTensor]:
    plan = [
        *_pair("projector.0", "projector.0", width, image_width),
        *_pair("projector.1", "projector.1", width, width),
    ]
    if has_bias:
        return plan
    return [FusedTensor(t.name, t.sources, t.shape, is_optional=t.name.endswith(".bias")) for t in plan]


def _text(spec: TextSpec) -> list[FusedTensor]:
    width, inner, dim = spec.hidden_size, spec.intermediate_size, spec.head_dim
    rows = {"q": spec.num_heads * dim, "k": spec.num_kv_heads * dim, "v": spec.num_kv_heads * dim}
    plan = [_same("text.embed.weight", "text.embed_tokens.weight", spec.vocab_size, width)]
    for i in range(spec.num_layers):
        name = f"text.layers.{i}"
        qkv = {f"{name}.self_attn.{p}_proj.weight": (n, width) for p, n in rows.items()}
        gate_up = {f"{name}.mlp.{p}_proj.weight": (inner, width) for p in ("gate", "up")}
        plan += [
            _same(f"{name}.norm1.weight", f"{name}.input_layernorm.weight", width),
            FusedTensor(f"{name}.qkv.weight", qkv, (sum(rows.values()), width), is_text_linear=True),
            _same(f"{name}.out.weight", f"{name}.self_attn.o_proj.weight", width, rows["q"], is_text_linear=True),
            _same(f"{name}.norm2.weight", f"{name}.post_attention_layernorm.weight", width),
            FusedTensor(f"{name}.gate_up.weight", gate_up, (2 * inner, width), is_text_linear=True),
            _same(f"{name}.down.weight", f"{name}.mlp.down_proj.weight", width, inner, is_text_linear=True),
        ]
    return [*plan, _same("text.norm.weight", "text.norm.weight", width)]


def _same(name: str, source: str, *shape: int, is_text_linear: bool = False) -> FusedTensor:
    return FusedTensor(name, {source: shape}, shape, is_text_linear)
