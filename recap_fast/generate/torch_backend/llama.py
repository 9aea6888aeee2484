"""The decoder over one matrix of rows: whole prompts being prefilled, and the next token of running captions.

It is Llama's, or one that differs from it by biases (Qwen2) or by norms of heads (Qwen3).

A row is a position of some caption. Prefill rows come first, n images of L positions each, then the decode rows, one a
slot. Keys and values live in static slots; the constant text before the image was computed once and stands at the
start of each slot. The same code runs eagerly with as many rows as there are, and with fixed shapes in a CUDA graph.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recap_fast.generate.model_spec import RopeSpec, TextSpec
from recap_fast.generate.ops import Activation, HeadNorm, Ops, Product, Prompts, Quantized, Rope, Rows
from recap_fast.generate.ops.linear import make_linear
from recap_fast.generate.torch_backend.pages import use_huge_pages

# Letters: n prefills of L positions, B decode rows, R = n * L + B rows, D width, H query heads, K key/value heads,
# E head width, T positions of a slot, V vocabulary.


@dataclass(frozen=True, slots=True)
class Prefill:
    """The prefill part of a step: n prompts of L new positions each, the first of them at position `start`."""

    slots: Tensor
    """int64 [n]: where keys and values go."""
    start: int
    length: int
    last_rows: Tensor
    """int64 [n]: the row of each prompt's last token; the rows after it, up to L, are padding."""

    @property
    def prompts(self) -> Prompts:
        """Their number, start and length, for `Ops.attention`."""
        return Prompts(len(self.slots), self.start, self.length)

    def rows(self) -> Rows:
        positions = torch.arange(self.start, self.start + self.length, device=self.slots.device)
        return Rows(self.slots.repeat_interleave(self.length), positions.repeat(len(self.slots)))


def list_rows(prefill: Prefill | None, decode: Rows | None) -> Rows:
    """Slot and position of each row of a step."""
    parts = ([] if prefill is None else [prefill.rows()]) + ([] if decode is None else [decode])
    if len(parts) == 1:
        return parts[0]
    return Rows(torch.cat([part.slots for part in parts]), torch.cat([part.positions for part in parts]))


def read_rows(prefill: Prefill | None, x_RD: Tensor) -> Tensor:
    """The rows that next tokens are read from, int64 [n + B]: the last one of each prompt, and all decode rows."""
    decode = torch.arange(0 if prefill is None else prefill.prompts.num_rows, len(x_RD), device=x_RD.device)
    return decode if prefill is None else torch.cat([prefill.last_rows, decode])


def rope_table(rope: RopeSpec, head_dim: int, num_positions: int) -> Rope:
    """Cosines and signed sines of every position, float32 [T, E] each, for `ops.plain.rotate`."""
    angles = torch.arange(num_positions).float()[:, None] * _frequencies(rope, head_dim)
    cos, sin = angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor
    return Rope(torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))


def _frequencies(rope: RopeSpec, head_dim: int) -> Tensor:
    """The angle by which each pair of channels turns from one position to the next, float32 [E / 2].

    With a `factor` they are slowed by it: all of them ("linear"), or the low ones alone, and those between two marks
    smoothly so. Llama 3.1 has its marks in turns within the original positions. YaRN has them in channels, where so
    many turns are made (https://arxiv.org/abs/2309.00071, section 3.2).
    """
    frequencies = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    if rope.factor is None:
        return frequencies
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        turns = rope.original_max_positions * frequencies / (2 * torch.pi)
        kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    else:
        low, high = (
            head_dim * math.log(rope.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
            for turns in (rope.beta_fast, rope.beta_slow)
        )
        if rope.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        kept = 1 - (torch.arange(head_dim // 2).float() - low) / (high - low or 0.001)
    kept = kept.clamp(0.0, 1.0)
    return frequencies / rope.factor * (1 - kept) + frequencies * kept


class KVCache:
    """Keys and values of every slot, [layers, 2, slots, K, T, E], with one more position that idle slots write to."""

    def __init__(self, spec: TextSpec, num_slots: int, num_positions: int, dtype: torch.dtype, device: torch.device):
        shape = (spec.num_layers, 2, num_slots, spec.num_kv_heads, num_positions + 1, spec.head_dim)
        self.data = torch.empty(shape, dtype=dtype, device=device)
        if device.type == "cpu":
            use_huge_pages(self.data)
        self.data.zero_()
        self.idle_position = num_positions
        self.images: tuple[Tensor, int] | None = None
        """Numbers of the slots, int64 [slots], and a position. Slots of equal numbers hold the same keys and values
        before it: what reads them may read one's for all. None where no slot is known to hold what another does."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """What every layer needs to know of a step's rows."""

    prefill: Prefill | None
    rows: Rows
    rope: Rope


class Llama:
    """Runs rows through the decoder and returns the logits of the rows that the next tokens are read from."""

    def __init__(self, spec: TextSpec, weights: Mapping[str, Tensor], num_positions: int, ops: Ops):
        self._spec, self._ops = spec, ops
        self._embedding = weights["text.embed.weight"]
        dtype, device = self._embedding.dtype, self._embedding.device
        self._layers = [_Layer(spec, i, weights, ops, dtype) for i in range(spec.num_layers)]
        self._norm = weights["text.norm.weight"]
        self._head = make_linear(weights, "text.embed" if spec.tied_head else "text.head", ops, dtype)
        table = rope_table(spec.rope, spec.head_dim, num_positions + 1)
        self._rope = Rope(*(t.to(device=device, dtype=dtype) for t in table))

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings: ids of any shape, one more dimension D."""
        return torch.nn.functional.embedding(ids, self._embedding)

    def forward(self, x_RD: Tensor, cache: KVCache, prefill: Prefill | None, decode: Rows | None) -> Tensor:
        """Logits [n + B, V]: of each prefilled prompt's last position, then of each decode row. Overwrites `x`.

        Keys and values of all rows are written to the cache. In the last layer everything but keys and values is
        computed for the n + B rows alone.
        """
        batch = _Batch(prefill, list_rows(prefill, decode), self._rope)
        delta: Product | None = None
        for index, layer in enumerate(self._layers[:-1]):
            delta = layer.forward(x_RD, delta, cache.data[index], batch)
        x_RD, delta = self._layers[-1].forward_last(x_RD, delta, cache.data[-1], batch)
        return self._head(self._ops.add_rms_norm(x_RD, delta, self._norm, self._spec.norm_eps, self._head.quantize))


class _Layer:
    """One decoder layer. It leaves what it adds to the residual stream for the next layer's norm to add."""

    def __init__(self, spec: TextSpec, index: int, weights: Mapping[str, Tensor], ops: Ops, dtype: torch.dtype):
        name = f"text.layers.{index}"
        self._spec, self._ops = spec, ops
        self._norm1, self._norm2 = weights[f"{name}.norm1.weight"], weights[f"{name}.norm2.weight"]
        self._out, self._gate_up, self._down = (
            make_linear(weights, f"{name}.{part}", ops, dtype) for part in ("out", "gate_up", "down")
        )
        self._qkv = make_linear(weights, f"{name}.qkv", ops, dtype)
        self._head_norm = None
        if spec.qk_norm:
            query, key = (weights[f"{name}.{part}_norm.weight"] for part in "qk")
            self._head_norm = HeadNorm(query, key, spec.norm_eps)
        queries = spec.num_heads * spec.head_dim
        if index == spec.num_layers - 1:  # prompts need queries of their last rows alone
            self._kv = make_linear(weights, f"{name}.qkv", ops, dtype, slice(queries, None))
        self._bound = None
        if self._out.quantize == torch.float8_e4m3fn:
            first_value = queries + spec.num_kv_heads * spec.head_dim
            self._bound = bound_outputs(weights, f"{name}.qkv", self._norm1, slice(first_value, None))

    def forward(self, x_RD: Tensor, delta_RD: Product | None, cache: Tensor, batch: _Batch) -> Product:
        """Adds `delta` and attention's part to `x` in place; returns what the feed-forward part adds: [R, D]."""
        h = self._ops.add_rms_norm(x_RD, delta_RD, self._norm1, self._spec.norm_eps, self._qkv.quantize)
        return self._forward_normed(x_RD, h, cache, batch)

    def forward_last(
        self, x_RD: Tensor, delta_RD: Product | None, cache: Tensor, batch: _Batch
    ) -> tuple[Tensor, Product]:
        """As `forward`, but for prompts computes only keys and values, and the rows that are read.

        Returns `x` of those rows and what is to be added to it, both [n + B, D].
        """
        h = self._ops.add_rms_norm(x_RD, delta_RD, self._norm1, self._spec.norm_eps, self._qkv.quantize)
        if batch.prefill is not None:
            self._ops.rope_store(self._kv.product(h), 0, batch.rope, batch.rows, cache, self._head_norm)
            read = read_rows(batch.prefill, x_RD)
            x_RD, h = x_RD[read], _select(h, read)
            batch = _Batch(None, Rows(batch.rows.slots[read], batch.rows.positions[read]), batch.rope)
        return x_RD, self._forward_normed(x_RD, h, cache, batch)

    def _forward_normed(self, x_RD: Tensor, h: Activation, cache: Tensor, batch: _Batch) -> Product:
        """`forward` after the first norm, whose output is `h`."""
        qkv, heads = self._qkv.product(h), self._spec.num_heads
        q_RHE = self._ops.rope_store(qkv, heads, batch.rope, batch.rows, cache, self._head_norm)
        prompts = None if batch.prefill is None else batch.prefill.prompts
        delta = self._out.product(self._ops.attention(q_RHE, cache, batch.rows, prompts, self._bound))
        h = self._ops.add_rms_norm(x_RD, delta, self._norm2, self._spec.norm_eps, self._gate_up.quantize)
        return self._down.product(self._ops.swiglu(self._gate_up.product(h), self._down.quantize))


SLACK = 1.25
"""Margin for the roundings of an input and of a cached number to 8 bits, up to 1/16 each, and of sums."""
WIDEST_BOUND = 2.0**9
"""Over the size of a usual value. e4m3 has 15 powers of two at full precision: an output of 1/64 of a usual value is
still among them. Smaller ones add little to the residual stream."""


def bound_outputs(weights: Mapping[str, Tensor], name: str, norm: Tensor, channels: slice) -> float | None:
    """A bound on the magnitude of these output channels of a linear layer whose input is an RMS norm's output.

    Before it is multiplied by `norm`, a normed row has at most the length sqrt(D). By the Cauchy-Schwarz inequality,
    channel j is at most sqrt(D) times the length of W_j * norm, plus its bias. That length is also the channel's usual
    size but for the bias, for a row whose numbers are of about the same size. None where the bound is too wide to scale
    numbers of 8 bits by it.
    """
    weight_ND, scale_N = weights[f"{name}.weight"][channels].float(), weights[f"{name}.scale"][channels]
    lengths_N = (weight_ND * norm.float()).norm(dim=-1) * scale_N
    largest_N = len(norm) ** 0.5 * lengths_N
    if (bias := weights.get(f"{name}.bias")) is not None:
        largest_N += bias[channels].float().abs()
    bound = SLACK * largest_N.max().item()
    return bound if 0.0 < bound <= WIDEST_BOUND * lengths_N.median().item() else None


def _select(x: Activation, rows: Tensor) -> Activation:
    """Those rows; 8-bit floats are taken as bytes, which every version of torch can index."""
    if isinstance(x, Tensor):
        return x[rows]
    return Quantized(x.values.view(torch.uint8)[rows].view(x.values.dtype), x.scale[rows])
