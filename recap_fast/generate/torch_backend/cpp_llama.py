"""The Llama decoder in float32 on CPUs: all layers of a step in one call of C++ (csrc/cpu/llama.hpp).

The same numbers as `llama.Llama`, which is its truth, but for the order of sums. What is saved is what lies between
operations: starting threads for each of them, Python, and torch's dispatch, which take a third of a small model's time.
Its threads share work piece by piece, so that one that the system holds up delays the others little.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recap_fast.generate.ops import Rows
from recap_fast.generate.ops.cpp import kernels
from recap_fast.generate.spec import TextSpec
from recap_fast.generate.torch_backend.llama import KVCache, Prefill, list_rows
from recap_fast.generate.torch_backend.rope import rope_table

# Letters: R rows, N of them that are read, D width, V vocabulary.


class CppLlama:
    """Same interface as `Llama`. Weights are copied; threads take turns."""

    def __init__(self, spec: TextSpec, weights: Mapping[str, Tensor], num_positions: int):
        self._spec = spec
        self._embedding = weights["text.embed.weight"].numpy()
        cos, sin = rope_table(spec.rope, spec.head_dim, num_positions + 1)
        head = weights["text.embed.weight" if spec.tied_head else "text.head.weight"]
        self._core = kernels.Llama(
            spec.num_layers,
            spec.num_heads,
            spec.num_kv_heads,
            spec.norm_eps,
            {**weights, "text.head.weight": head, "text.cos": cos, "text.sin": sin},
            torch.get_num_threads(),
        )

    def embed(self, ids: Tensor) -> Tensor:
        """See `Llama.embed`. By NumPy, which starts no threads for a few rows."""
        return torch.from_numpy(self._embedding.take(ids.numpy(), axis=0))

    def forward(self, x_RD: Tensor, cache: KVCache, prefill: Prefill | None, decode: Rows | None) -> Tensor:
        """See `Llama.forward`. Raises IndexError for rows outside of the cache."""
        rows = list_rows(prefill, decode)
        read_N, prompts = torch.arange(0 if prefill is None else prefill.num_rows, len(x_RD)), (0, 0, 0)
        if prefill is not None:
            read_N = torch.cat([prefill.last_rows, read_N])
            prompts = len(prefill.slots), prefill.start, prefill.length
        logits_NV = torch.empty(len(read_N), self._spec.vocab_size)
        self._core.forward(
            x_RD, rows.slots, rows.positions, prompts, read_N, cache.data, logits_NV, torch.get_num_threads()
        )
        return logits_NV
