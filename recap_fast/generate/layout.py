"""The tensors of an engine, in the order of its file, from the shapes of its model alone.

`plan_weights` says which there are and which of a checkpoint's they are made of; `stored_tensors` how one of them lies
in weights.safetensors. A linear layer in 8 bits is float8_e4m3fn or int8 [N, K] and a float32 `<name>.scale` [N]:
weight = stored * scale, as `ops.linear.quantize_channels` makes them.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from recap_fast.generate.model_spec import TextSpec, VisionSpec
from recap_fast.generate.spec import EngineSpec, Precision


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


CODES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
}
"""What safetensors calls a type."""


def checksum(data: memoryview, so_far: str = "") -> str:
    """CRC-32 of a tensor's bytes in the file, in hex, as engine.json has it; `so_far` is that of the bytes before.

    For accidents, not for attacks: it notices every damage of up to 32 bits in a row. zlib takes 4 GB/s on one core of
    an EPYC, where SHA-256 takes 1.8 with instructions for it.
    """
    return f"{zlib.crc32(data, int(so_far or '0', 16)):08x}"


@dataclass(frozen=True, slots=True)
class FusedTensor:
    """A tensor of the engine: the checkpoint's `sources`, one below the other."""

    name: str
    sources: Mapping[str, tuple[int, ...]]
    """The checkpoint's tensors by our names, with the shapes that they must have there."""
    is_text_linear: bool = False
    """A linear layer of the language model: what 8 bits are for."""
    is_optional: bool = False
    """A bias that the checkpoint has none of is zero."""

    @property
    def is_of_text(self) -> bool:
        """Whether it is the language model's."""
        return self.name.startswith("text.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a vector [N], of anything else a matrix [N, K]: the patch convolution is one."""
        (_, *columns), *_ = shapes = list(self.sources.values())
        rows = sum(shape[0] for shape in shapes)
        return (rows, math.prod(columns)) if columns else (rows,)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the file has it."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def plan_weights(vision: VisionSpec, text: TextSpec, *, projector_bias: bool = True) -> list[FusedTensor]:
    """The tensors of an engine of these shapes; without `projector_bias` the checkpoint has none."""
    width = text.hidden_size
    projector = [
        *_linear("projector.0", ["projector.0"], width, vision.hidden_size),
        *_linear("projector.1", ["projector.1"], width, width),
    ]
    if not projector_bias:
        projector = [replace(tensor, is_optional=tensor.name.endswith(".bias")) for tensor in projector]
    return [*_vision(vision), *projector, *plan_text(text)]


def plan_text(spec: TextSpec) -> list[FusedTensor]:
    """Those of the language model."""
    width, inner, queries = spec.hidden_size, spec.intermediate_size, spec.num_heads * spec.head_dim
    rows = {"q": queries, "k": spec.num_kv_heads * spec.head_dim, "v": spec.num_kv_heads * spec.head_dim}
    layer: dict[str, dict[str, tuple[int, ...]]] = {
        "norm1": {"input_layernorm": (width,)},
        "qkv": {f"self_attn.{p}_proj": (n, width) for p, n in rows.items()},
        **({p: {f"self_attn.{p}": (spec.head_dim,)} for p in ("q_norm", "k_norm")} if spec.qk_norm else {}),
        "out": {"self_attn.o_proj": (width, queries)},
        "norm2": {"post_attention_layernorm": (width,)},
        "gate_up": {f"mlp.{p}_proj": (inner, width) for p in ("gate", "up")},
        "down": {"mlp.down_proj": (width, inner)},
    }
    plan = [FusedTensor("text.embed.weight", {"text.embed_tokens.weight": (spec.vocab_size, width)})]
    for i in range(spec.num_layers):
        name = f"text.layers.{i}"
        for ours, parts in layer.items():
            sources = {f"{name}.{theirs}.weight": shape for theirs, shape in parts.items()}
            plan.append(FusedTensor(f"{name}.{ours}.weight", sources, is_text_linear="norm" not in ours))
        if spec.qkv_bias:
            biases = {f"{name}.{theirs}.bias": shape[:1] for theirs, shape in layer["qkv"].items()}
            plan.append(FusedTensor(f"{name}.qkv.bias", biases))
    plan.append(FusedTensor("text.norm.weight", {"text.norm.weight": (width,)}))
    if not spec.tied_head:
        plan.append(FusedTensor("text.head.weight", {"head.weight": (spec.vocab_size, width)}))
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


def engine_tensors(spec: EngineSpec) -> list[StoredTensor]:
    """The tensors in an engine's weights.safetensors, in their order."""
    if spec.backend == "torch":
        return file_order(plan_weights(spec.vision, spec.text), spec.precision)
    ours = [t for t in plan_weights(spec.vision, spec.text) if not t.is_of_text]
    return file_order(ours, spec.compute_precision)


def file_order(plan: list[FusedTensor], precision: Precision) -> list[StoredTensor]:
    """Those in 8 bits come first: their sizes are multiples of 64 bytes, so that the scales between stay aligned."""
    return [entry for tensor in order_tensors(plan, precision) for entry in stored_tensors(tensor, precision)]


def order_tensors(plan: list[FusedTensor], precision: Precision) -> list[FusedTensor]:
    """As the file has them."""
    return sorted(plan, key=lambda tensor: not (precision in EIGHT_BITS and tensor.is_text_linear))


def weight_bytes(spec: EngineSpec) -> int:
    """Bytes of an engine's tensors, by its shapes and precision."""
    plan = plan_weights(spec.vision, spec.text)
    return sum(stored.num_bytes for tensor in plan for stored in stored_tensors(tensor, spec.precision))


def _vision(spec: VisionSpec) -> list[FusedTensor]:
    width, inner, patch, embeddings = spec.hidden_size, spec.intermediate_size, spec.patch_size, "vision.embeddings"
    weight, bias = _linear("vision.patch", [f"{embeddings}.patch_embedding"], width, 3, patch, patch)
    plan = [weight, bias] if spec.has_patch_bias else [weight]
    if spec.has_class_token:
        plan.append(FusedTensor("vision.class", {f"{embeddings}.class_embedding": (width,)}))
    position = {f"{embeddings}.position_embedding.weight": (spec.num_positions, width)}
    plan.append(FusedTensor("vision.position", position))
    if spec.has_pre_norm:
        plan += _linear("vision.pre_norm", ["vision.pre_layrnorm"], width)
    for i in range(spec.num_layers):
        ours, theirs = f"vision.layers.{i}", f"vision.encoder.layers.{i}"
        plan += [
            *_linear(f"{ours}.norm1", [f"{theirs}.layer_norm1"], width),
            *_linear(f"{ours}.qkv", [f"{theirs}.self_attn.{p}_proj" for p in "qkv"], width, width),
            *_linear(f"{ours}.out", [f"{theirs}.self_attn.out_proj"], width, width),
            *_linear(f"{ours}.norm2", [f"{theirs}.layer_norm2"], width),
            *_linear(f"{ours}.fc1", [f"{theirs}.mlp.fc1"], inner, width),
            *_linear(f"{ours}.fc2", [f"{theirs}.mlp.fc2"], width, inner),
        ]
    return plan


def _linear(name: str, sources: list[str], *shape: int) -> list[FusedTensor]:
    """A weight and a bias, of layers of this shape each."""
    return [
        FusedTensor(f"{name}.weight", {f"{source}.weight": shape for source in sources}),
        FusedTensor(f"{name}.bias", {f"{source}.bias": shape[:1] for source in sources}),
    ]
