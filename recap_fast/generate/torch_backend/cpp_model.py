"""The Llama decoder, and the vision tower with its projector, in float32 on CPUs: a call of C++ each (csrc/cpu).

The same numbers as `llama.Llama` and `vision.VisionTower`, which are their truth, but for the order of sums. What is
saved is what lies between operations: starting threads for each of them, Python, and torch's dispatch, which take a
third of a small model's time. Threads share work piece by piece, so that one that the system holds up delays the others
little.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recap_fast.generate.model_spec import TextSpec, VisionSpec
from recap_fast.generate.ops import Rows
from recap_fast.generate.ops.cpp import kernels
from recap_fast.generate.torch_backend.llama import KVCache, Prefill, list_rows, read_rows, rope_table
from recap_fast.records import Preprocess

# Letters: R rows, M of them that are read, D width of the decoder, V vocabulary, n images, N image tokens of each.


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
        rows, read_M = list_rows(prefill, decode), read_rows(prefill, x_RD)
        prompts = (0, 0, 0) if prefill is None else (len(prefill.slots), prefill.start, prefill.length)
        logits_MV = torch.empty(len(read_M), self._spec.vocab_size)
        places, threads = (rows.slots, rows.positions, prompts, read_M), torch.get_num_threads()
        self._core.forward(x_RD, *places, cache.data, logits_MV, threads, cache.images)
        return logits_MV


class CppTower:
    """Same interface as `VisionTower`. Weights are copied; threads take turns."""

    def __init__(self, spec: VisionSpec, preprocess: Preprocess, weights: Mapping[str, Tensor]):
        self._spec, self._width = spec, len(weights["projector.1.weight"])
        self._core = kernels.Tower(
            spec.image_size,
            spec.patch_size,
            spec.num_heads,
            spec.num_layers,
            spec.norm_eps,
            spec.activation,
            spec.num_dropped,
            {**weights, "vision.levels": normalized_levels(preprocess)},
            torch.get_num_threads(),
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """See `VisionTower.encode`."""
        tokens_nND = torch.empty(len(pixels), self._spec.num_image_tokens, self._width)
        self._core.encode(pixels, tokens_nND, torch.get_num_threads())
        return tokens_nND


def normalized_levels(preprocess: Preprocess) -> Tensor:
    """What each level of each color becomes: float32 [3, 256]."""
    mean, std = (torch.tensor(values)[:, None] for values in (preprocess.mean, preprocess.std))
    return (torch.arange(256).float() / 255 - mean) / std
