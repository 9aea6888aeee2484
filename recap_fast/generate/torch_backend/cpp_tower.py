"""CLIP's vision tower and the projector in float32 on CPUs, in one call of C++ (csrc/cpu/tower.hpp).

The same numbers as `vision.VisionTower`, which is its truth, but for the order of sums; cpp_llama.py says what for.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recap_fast.generate.ops.cpp import kernels
from recap_fast.generate.spec import VisionSpec
from recap_fast.records import Preprocess

# Letters: n images, N patches, P width of the decoder.


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
            spec.activation == "quick_gelu",
            {**weights, "vision.levels": normalized_levels(preprocess)},
            torch.get_num_threads(),
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """See `VisionTower.encode`."""
        tokens_nNP = torch.empty(len(pixels), self._spec.num_image_tokens, self._width)
        self._core.encode(pixels, tokens_nNP, torch.get_num_threads())
        return tokens_nNP


def normalized_levels(preprocess: Preprocess) -> Tensor:
    """What each level of each color becomes: float32 [3, 256]."""
    mean, std = (torch.tensor(values)[:, None] for values in (preprocess.mean, preprocess.std))
    return (torch.arange(256).float() / 255 - mean) / std
