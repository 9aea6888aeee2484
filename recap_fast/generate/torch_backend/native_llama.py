"""The Llama decoder in float32 on CPUs: all layers of a step in one call of C++ (csrc/cpu_decoder.hpp).

The same numbers as `llama.Llama`, which is its truth, but for the order of sums. What is saved is what lies between
operations: starting threads for each of them, Python, and torch's dispatch, which take a third of a small model's time.
Its threads share work piece by piece, so that one that the system holds up delays the others little.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recap_fast.generate.spec import TextSpec
from recap_fast.generate.torch_backend.llama import KVCache, Prefill, list_rows
from recap_fast.generate.torch_backend.ops import Rows, native
from recap_fast.generate.torch_backend.ops.native import address, pack, place_addresses
from recap_fast.generate.torch_backend.rope import rope_table

# Letters: R rows, N of them that are read, D width, V vocabulary.


class NativeLlama:
    """Has the face of `Llama`."""

    def __init__(self, spec: TextSpec, weights: Mapping[str, Tensor], num_positions: int):
        self._spec = spec
        self._embedding = weights["text.embed.weight"].numpy()
        head = weights["text.embed.weight" if spec.tied_head else "text.head.weight"]
        layers = [self._layer(weights, index) for index in range(spec.num_layers)]
        rest = [weights["text.norm.weight"], pack(head), *rope_table(spec.rope, spec.head_dim, num_positions + 1)]
        self._kept = layers, rest  # C++ has their addresses
        self._core = native.core.Decoder(
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
        _, _, num_slots, _, num_positions, _ = cache.data.shape
        shape = (2, num_slots, spec.num_kv_heads, num_positions, spec.head_dim)
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
        norm1, qkv, out, norm2, gate_up, down = (
            weights[f"text.layers.{index}.{name}.weight"]
            for name in ("norm1", "qkv", "out", "norm2", "gate_up", "down")
        )
        kv = None
        if index == self._spec.num_layers - 1:  # its queries are those of fewer rows than its keys and values
            qkv, kv = qkv.tensor_split([self._spec.num_heads * self._spec.head_dim])
        packed_kv = None if kv is None else pack(kv)
        return [norm1, pack(qkv), packed_kv, pack(out), norm2, pack(gate_up, pairs=True), pack(down)]
