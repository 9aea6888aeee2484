"""The Llama decoder in float32 on CPUs: all layers of a step in one call of C++ (csrc/cpu/llama.hpp).

The same numbers as `llama.Llama`, which is its truth, but for the order of sums. What is saved is what lies between
operations: starting threads for each of them, Python, and torch's dispatch, which take a third of a small model's time.
Its threads share work piece by piece, so that one that the system holds up delays the others little.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recap_fast.generate.ops import Rows, cpp
from recap_fast.generate.ops.cpp import address, pack, place_addresses
from recap_fast.generate.spec import TextSpec
from recap_fast.generate.torch_backend.llama import KVCache, Prefill, list_rows
from recap_fast.generate.torch_backend.rope import rope_table

# Letters: R rows, N of them that are read, D width, V vocabulary.


class NativeLlama:
    """Has the face of `Llama`."""

    def __init__(self, spec: TextSpec, weights: Mapping[str, Tensor], num_positions: int):
        if spec.head_dim % 2 or spec.num_heads % spec.num_kv_heads:
            raise ValueError(f"{spec.num_heads} heads of width {spec.head_dim} cannot share {spec.num_kv_heads}")
        self._spec, self._num_positions = spec, num_positions + 1
        self._embedding = weights["text.embed.weight"].numpy()
        head = weights["text.embed.weight" if spec.tied_head else "text.head.weight"]
        layers = [self._layer(weights, index) for index in range(spec.num_layers)]
        norm, packed_head = self._vector(weights["text.norm.weight"]), pack(head, (spec.vocab_size, spec.hidden_size))
        rest = [norm, packed_head, *rope_table(spec.rope, spec.head_dim, self._num_positions)]
        self._kept = layers, rest  # C++ has their addresses
        self._core = cpp.core.Decoder(
            (
                spec.hidden_size,
                spec.intermediate_size,
                spec.num_heads,
                spec.num_kv_heads,
                spec.head_dim,
                spec.vocab_size,
            ),
            spec.norm_eps,
            [tuple(0 if tensor is None else tensor.data_ptr() for tensor in layer) for layer in layers],
            tuple(tensor.data_ptr() for tensor in rest),
        )

    def embed(self, ids: Tensor) -> Tensor:
        """See `Llama.embed`. By NumPy, which starts no threads for a few rows."""
        return torch.from_numpy(self._embedding.take(ids.numpy(), axis=0))

    def forward(self, x_RD: Tensor, cache: KVCache, prefill: Prefill | None, decode: Rows | None) -> Tensor:
        """See `Llama.forward`. Raises IndexError for rows outside of the cache."""
        spec, num_rows, rows = self._spec, len(x_RD), list_rows(prefill, decode)
        read_N, prompts = torch.arange(0 if prefill is None else prefill.num_rows, num_rows), (0, 0, 0)
        if prefill is not None:
            read_N = torch.cat([prefill.last_rows, read_N])
            prompts = len(prefill.slots), prefill.start, prefill.length
        shape = (2, cache.data.shape[2], spec.num_kv_heads, self._num_positions, spec.head_dim)
        logits_NV = torch.empty(len(read_N), spec.vocab_size)
        self._core.forward(
            num_rows,
            address(x_RD, torch.float32, (num_rows, spec.hidden_size)),
            place_addresses(rows, num_rows),
            prompts,
            len(read_N),
            address(read_N, torch.int64, (len(read_N),)),
            (address(cache.data, torch.float32, (spec.num_layers, *shape)), shape),
            logits_NV.data_ptr(),
            torch.get_num_threads(),
        )
        return logits_NV

    def _layer(self, weights: Mapping[str, Tensor], index: int) -> list[Tensor | None]:
        """In the order of `core.Decoder`."""
        spec = self._spec
        width, inner, queries = spec.hidden_size, spec.intermediate_size, spec.num_heads * spec.head_dim
        kv_width = 2 * spec.num_kv_heads * spec.head_dim
        norm1, qkv, out, norm2, gate_up, down = (
            weights[f"text.layers.{index}.{name}.weight"]
            for name in ("norm1", "qkv", "out", "norm2", "gate_up", "down")
        )
        packed_kv = None
        if index < spec.num_layers - 1:
            packed_qkv = pack(qkv, (queries + kv_width, width))
        else:  # its queries are those of fewer rows than its keys and values
            packed_qkv, packed_kv = pack(qkv[:queries], (queries, width)), pack(qkv[queries:], (kv_width, width))
        return [
            self._vector(norm1),
            packed_qkv,
            packed_kv,
            pack(out, (width, queries)),
            self._vector(norm2),
            pack(gate_up, (2 * inner, width), pairs=True),
            pack(down, (width, inner)),
        ]

    def _vector(self, tensor: Tensor) -> Tensor:
        """A norm's weight. Raises ValueError where it is none."""
        address(tensor, torch.float32, (self._spec.hidden_size,))
        return tensor
