"""The Llama decoder over one matrix of rows: whole prompts being prefilled, and the next token of running captions.

A row is a position of some caption. Prefill rows come first, n images of L positions each, then the decode rows, one a
slot. Keys and values live in static slots; the constant text before the image was computed once and stands at the
start of each slot.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recap_fast.generate.spec import TextSpec
from recap_fast.generate.torch_backend import ops
from recap_fast.generate.torch_backend.ops import Linear

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
    next_positions: Tensor
    """int64 [n]: the position of each prompt's first generated token."""


@dataclass(frozen=True, slots=True)
class Decode:
    """The decode part of a step: slots 0 to B - 1, one new position each; the cache is read up to `span`."""

    positions: Tensor
    """int64 [B]."""
    span: int


class KVCache:
    """Keys and values of every slot, [layers, 2, slots, K, T, E], with one more position that idle slots write to."""

    def __init__(self, spec: TextSpec, num_slots: int, num_positions: int, dtype: torch.dtype, device: torch.device):
        shape = (spec.num_layers, 2, num_slots, spec.num_kv_heads, num_positions + 1, spec.head_dim)
        self.data = torch.zeros(shape, dtype=dtype, device=device)
        self.idle_position = num_positions


class Llama:
    """Runs rows through the decoder and returns the logits of the rows that the next tokens are read from."""

    def __init__(self, spec: TextSpec, weights: Mapping[str, Tensor], num_positions: int):
        self._spec = spec
        self._embedding = weights["text.embed.weight"]
        self._layers = [_Layer(spec, i, weights) for i in range(spec.num_layers)]
        self._norm = weights["text.norm.weight"]
        self._head = Linear(self._embedding if spec.tied_head else weights["text.head.weight"])
        dtype, device = self._embedding.dtype, self._embedding.device
        tables = ops.rope_table(spec.rope, spec.head_dim, num_positions + 1)
        self._cos, self._sin = (t.to(device=device, dtype=dtype) for t in tables)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings: ids of any shape, one more dimension D."""
        return torch.nn.functional.embedding(ids, self._embedding)

    def forward(self, x_RD: Tensor, cache: KVCache, prefill: Prefill | None, decode: Decode | None) -> Tensor:
        """Logits [n + B, V]: of each prefilled prompt's last position, then of each decode row.

        Keys and values of all rows are written to the cache. In the last layer everything but keys and values is
        computed for the n + B rows alone.
        """
        positions = self._positions(prefill, decode)
        rope = self._cos[positions], self._sin[positions]
        mask = None if decode is None else _mask(decode, x_RD.dtype)
        for index, layer in enumerate(self._layers[:-1]):
            x_RD = layer.forward(x_RD, rope, cache.data[index], prefill, decode, mask)
        x_RD = self._layers[-1].forward_last(x_RD, rope, cache.data[-1], prefill, decode, mask)
        return self._head(ops.rms_norm(x_RD, self._norm, self._spec.norm_eps))

    def _positions(self, prefill: Prefill | None, decode: Decode | None) -> Tensor:
        parts = []
        if prefill is not None:
            new = torch.arange(prefill.start, prefill.start + prefill.length, device=self._cos.device)
            parts.append(new.repeat(len(prefill.slots)))
        if decode is not None:
            parts.append(decode.positions)
        return torch.cat(parts)


def _mask(decode: Decode, dtype: torch.dtype) -> Tensor:
    """What each decode row may read, [B, 1, 1, span]: 0 up to its own position, -inf after it."""
    beyond = torch.arange(decode.span, device=decode.positions.device) > decode.positions[:, None]
    mask = torch.zeros(beyond.shape, dtype=dtype, device=beyond.device).masked_fill_(beyond, float("-inf"))
    return mask[:, None, None]


class _Layer:
    def __init__(self, spec: TextSpec, index: int, weights: Mapping[str, Tensor]):
        def linear(name: str, channels: slice = slice(None)) -> Linear:
            weight, scale = (weights.get(f"text.layers.{index}.{name}.{kind}") for kind in ("weight", "scale"))
            assert weight is not None
            return Linear(weight[channels], scale=None if scale is None else scale[channels])

        self._spec = spec
        self._norm1, self._norm2 = (weights[f"text.layers.{index}.{name}.weight"] for name in ("norm1", "norm2"))
        self._out, self._gate_up, self._down = (linear(name) for name in ("out", "gate_up", "down"))
        if index < spec.num_layers - 1:
            self._qkv = linear("qkv")
        else:  # its queries are those of fewer rows than its keys and values
            queries = spec.num_heads * spec.head_dim
            self._q, self._kv = linear("qkv", slice(queries)), linear("qkv", slice(queries, None))

    def forward(
        self,
        x_RD: Tensor,
        rope: tuple[Tensor, Tensor],
        cache: Tensor,
        prefill: Prefill | None,
        decode: Decode | None,
        mask: Tensor | None,
    ) -> Tensor:
        s = self._spec
        rows = len(x_RD)
        qkv = self._qkv(ops.rms_norm(x_RD, self._norm1, s.norm_eps)).view(rows, -1, s.head_dim)
        turned = ops.rotate(qkv[:, : s.num_heads + s.num_kv_heads], *rope)
        q, k, v = turned[:, : s.num_heads], turned[:, s.num_heads :], qkv[:, s.num_heads + s.num_kv_heads :]
        num_prefill = _store(cache, k, v, prefill, decode)
        attended = []
        if prefill is not None:
            n, end = len(prefill.slots), prefill.start + prefill.length
            keys, values = cache[:, prefill.slots, :, :end]
            queries = q[:num_prefill].view(n, prefill.length, s.num_heads, s.head_dim).transpose(1, 2)
            attended.append(ops.prefill_attention(queries, keys, values).flatten(0, 1))
        if decode is not None and mask is not None:
            attended.append(_attend_running(q[num_prefill:], cache, decode, mask))
        return self._feed_forward(x_RD + self._out(torch.cat(attended) if len(attended) > 1 else attended[0]))

    def forward_last(
        self,
        x_RD: Tensor,
        rope: tuple[Tensor, Tensor],
        cache: Tensor,
        prefill: Prefill | None,
        decode: Decode | None,
        mask: Tensor | None,
    ) -> Tensor:
        """As `forward`, but only the rows that are read go on after keys and values are stored: [n + B, D]."""
        s = self._spec
        cos, sin = rope
        h = ops.rms_norm(x_RD, self._norm1, s.norm_eps)
        kv = self._kv(h).view(len(x_RD), -1, s.head_dim)
        k = ops.rotate(kv[:, : s.num_kv_heads], cos, sin)
        num_prefill = _store(cache, k, kv[:, s.num_kv_heads :], prefill, decode)
        read = torch.arange(num_prefill, len(x_RD), device=x_RD.device)
        if prefill is not None:
            read = torch.cat([prefill.last_rows, read])
        q = ops.rotate(self._q(h[read]).view(len(read), s.num_heads, s.head_dim), cos[read], sin[read])
        attended = []
        if prefill is not None:
            n, end = len(prefill.slots), prefill.start + prefill.length
            keys, values = cache[:, prefill.slots, :, :end]
            whole = Decode(prefill.next_positions - 1, end)
            attended.append(ops.decode_attention(q[:n], keys, values, _mask(whole, x_RD.dtype)))
        if decode is not None and mask is not None:
            attended.append(_attend_running(q[len(q) - len(decode.positions) :], cache, decode, mask))
        return self._feed_forward(x_RD[read] + self._out(torch.cat(attended)))

    def _feed_forward(self, x_RD: Tensor) -> Tensor:
        h = ops.rms_norm(x_RD, self._norm2, self._spec.norm_eps)
        return x_RD + self._down(ops.swiglu(self._gate_up(h)))


def _store(cache: Tensor, k_RKE: Tensor, v_RKE: Tensor, prefill: Prefill | None, decode: Decode | None) -> int:
    """Writes the new keys and values to the slots' cache [2, slots, K, T, E]; returns the number of prefill rows."""
    num_prefill = 0
    if prefill is not None:
        n, length = len(prefill.slots), prefill.length
        num_prefill = n * length
        for part, new in ((cache[0], k_RKE), (cache[1], v_RKE)):
            rows = new[:num_prefill].view(n, length, *new.shape[1:]).transpose(1, 2)
            part[prefill.slots, :, prefill.start : prefill.start + length] = rows
    if decode is not None:
        slots = torch.arange(len(decode.positions), device=cache.device)
        cache[0][slots, :, decode.positions] = k_RKE[num_prefill:]
        cache[1][slots, :, decode.positions] = v_RKE[num_prefill:]
    return num_prefill


def _attend_running(q_BHE: Tensor, cache: Tensor, decode: Decode, mask: Tensor) -> Tensor:
    keys, values = cache[:, : len(decode.positions), :, : decode.span]
    return ops.decode_attention(q_BHE, keys, values, mask)
