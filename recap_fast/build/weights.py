"""weights.safetensors: the tensors of an engine, fused and cast, written one piece at a time.

`plan_weights` says which tensors an engine has and which of the checkpoint's they are made of; `write_weights` reads,
casts and writes them in bounded memory. A linear layer in 8 bits is float8_e4m3fn or int8 [N, K] and a float32
`<name>.scale` [N]: weight = stored * scale, with scale = largest magnitude of the row / largest number of the type.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from recap_fast.build.architecture import Architecture
from recap_fast.build.checkpoint import Checkpoint, TensorSource
from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.spec import EngineSpec, Precision, TextSpec, VisionSpec

CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class EightBits:
    """A precision of 8 bits a weight, with a scale for each output channel."""

    dtype: torch.dtype
    largest: float
    """The largest number of the type that is used: for int8 127, so that it is symmetric."""
    multiple: int
    """torch's products (`_scaled_mm`, `_int_mm`) take sides that are multiples of this."""


EIGHT_BITS: Mapping[str, EightBits] = {
    "fp8": EightBits(torch.float8_e4m3fn, 448.0, 16),
    "int8": EightBits(torch.int8, 127.0, 8),
}
STORED = {
    torch.float32: ("F32", 4),
    torch.bfloat16: ("BF16", 2),
    torch.float16: ("F16", 2),
    torch.float8_e4m3fn: ("F8_E4M3", 1),
    torch.int8: ("I8", 1),
}
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


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
class _Entry:
    """A tensor as the file's header lists it."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * STORED[self.dtype][1]


def plan_weights(architecture: Architecture) -> list[FusedTensor]:
    """The tensors of an engine of this architecture, in the order of the file."""
    return _plan(architecture.vision, architecture.text, projector_bias=architecture.projector_bias)


def weight_bytes(spec: EngineSpec) -> int:
    """Bytes of an engine's tensors, by its shapes and precision."""
    plan = _plan(spec.vision, spec.text, projector_bias=True)
    return sum(entry.size_bytes for tensor in plan for entry in _entries(tensor, spec.precision))


def expected_shapes(plan: list[FusedTensor]) -> dict[str, tuple[int, ...]]:
    """The checkpoint's tensors that a plan reads, by our names."""
    return {name: shape for tensor in plan if not tensor.is_optional for name, shape in tensor.sources.items()}


def check_sides(plan: list[FusedTensor], precision: Precision) -> None:
    """Raises ConfigError where a layer's sides are none that the precision takes."""
    if precision not in EIGHT_BITS:
        return
    multiple = EIGHT_BITS[precision].multiple
    for tensor in plan:
        if tensor.is_text_linear and any(side % multiple for side in tensor.shape):
            raise ConfigError(
                f"precision {precision}: {tensor.name} is {list(tensor.shape)}, and {precision} takes multiples of "
                f"{multiple}. Use precision bfloat16."
            )


def write_weights(
    path: Path, plan: list[FusedTensor], checkpoint: Checkpoint, precision: Precision, progress: Progress
) -> str:
    """Writes the file and returns its SHA-256.

    Memory is bounded by a few pieces of 16 MiB, whatever the checkpoint's size. Raises ConfigError for a weight that is
    not finite, or too large for the precision.
    """
    # 8 bits first: their sizes are multiples of 64 bytes, so that the float32 scales between them stay aligned
    order = sorted(plan, key=lambda tensor: not (precision in EIGHT_BITS and tensor.is_text_linear))
    entries = [entry for tensor in order for entry in _entries(tensor, precision)]
    total, done, digest = sum(e.size_bytes for e in entries), 0, hashlib.sha256()
    with path.open("xb") as file:
        header = _header(entries)
        file.write(header)
        digest.update(header)
        for tensor in order:
            for piece in _pieces(tensor, checkpoint, precision):
                data = piece.contiguous().view(torch.uint8).numpy().data
                file.write(data)
                digest.update(data)
                done += piece.nbytes
                progress(done, total)
    _check(path, entries)
    return digest.hexdigest()


def _check(path: Path, entries: list[_Entry]) -> None:
    """Has the library read back what our writer wrote."""
    with safe_open(path, framework="pt") as file:
        found = {n: (file.get_slice(n).get_dtype(), tuple(file.get_slice(n).get_shape())) for n in file.keys()}  # noqa: SIM118
    if found != {e.name: (STORED[e.dtype][0], e.shape) for e in entries}:
        raise EngineError(f"{path} was not written as planned: is the disk full or failing?")


def _header(entries: list[_Entry]) -> bytes:
    content, offset = {}, 0
    for entry in entries:
        end = offset + entry.size_bytes
        content[entry.name] = {"dtype": STORED[entry.dtype][0], "shape": entry.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)
    return len(text).to_bytes(8, "little") + text


def _entries(tensor: FusedTensor, precision: Precision) -> list[_Entry]:
    if precision not in EIGHT_BITS:
        return [_Entry(tensor.name, getattr(torch, precision), tensor.shape)]
    if not tensor.is_text_linear:
        return [_Entry(tensor.name, torch.bfloat16, tensor.shape)]
    scale = f"{tensor.name.removesuffix('.weight')}.scale"
    return [
        _Entry(tensor.name, EIGHT_BITS[precision].dtype, tensor.shape),
        _Entry(scale, torch.float32, tensor.shape[:1]),
    ]


def _pieces(tensor: FusedTensor, checkpoint: Checkpoint, precision: Precision) -> Iterator[torch.Tensor]:
    """The data of a tensor's entries, in order."""
    entries, scales = _entries(tensor, precision), []
    for name, shape in tensor.sources.items():
        source = checkpoint.tensors.get(name)
        for piece in [torch.zeros(shape)] if source is None else source.read(CHUNK_BYTES):
            if len(entries) == 2:
                stored, scale = quantize(_checked(piece.float(), piece, name, source), EIGHT_BITS[precision])
                scales.append(scale)
                yield stored
            else:
                yield _checked(piece.to(entries[0].dtype), piece, name, source)
    if scales:
        yield torch.cat(scales)


def quantize(rows: torch.Tensor, form: EightBits) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [N, K] -> 8 bits [N, K], rounded to the nearest, and float32 scales [N]; a row of zeros has scale 1."""
    largest = rows.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / form.largest, 1.0)
    scaled = (rows / scale[:, None]).clamp_(-form.largest, form.largest)
    return (scaled if form.dtype.is_floating_point else scaled.round_()).to(form.dtype), scale


def _checked(cast: torch.Tensor, piece: torch.Tensor, name: str, source: TensorSource | None) -> torch.Tensor:
    if not torch.isfinite(cast).all():
        why = f"is too large for {cast.dtype}" if torch.isfinite(piece).all() else "is not finite"
        raise ConfigError(f"{source or name}: a weight {why}.".replace("torch.", ""))
    return cast


def _plan(vision: VisionSpec, text: TextSpec, *, projector_bias: bool) -> list[FusedTensor]:
    plan = [*_vision(vision), *_projector(text.hidden_size, vision.hidden_size, projector_bias), *_text(text)]
    return plan if text.tied_head else [*plan, _head(text)]


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


def _head(spec: TextSpec) -> FusedTensor:
    return _same("text.head.weight", "head.weight", spec.vocab_size, spec.hidden_size)


def _same(name: str, source: str, *shape: int, is_text_linear: bool = False) -> FusedTensor:
    return FusedTensor(name, {source: shape}, shape, is_text_linear)
