"""CLIP's vision tower and the projector in float32 on CPUs, in one call of C++ (csrc/cpu_tower.hpp).

The same numbers as `vision.VisionTower`, which is its truth, but for the order of sums; native_llama.py says what for.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recap_fast.generate.spec import VisionSpec
from recap_fast.generate.torch_backend.ops import native
from recap_fast.generate.torch_backend.ops.native import address, pack
from recap_fast.records import Preprocess

# Letters: n images, N patches, P width of the decoder.

LAYER = ("norm1", "qkv", "out", "norm2", "fc1", "fc2")


class NativeTower:
    """Has the face of `VisionTower`."""

    def __init__(self, spec: VisionSpec, preprocess: Preprocess, weights: Mapping[str, Tensor]):
        self._spec, self._weights = spec, weights
        self._kept: list[Tensor] = []  # C++ has their addresses
        self._width = len(weights["projector.1.weight"])
        self._core = native.core.Tower(
            (
                spec.image_size,
                spec.patch_size,
                spec.hidden_size,
                spec.intermediate_size,
                spec.num_heads,
                self._width,
            ),
            spec.norm_eps,
            spec.activation == "quick_gelu",
            (
                self._keep(normalised_levels(preprocess)),
                self._keep(weights["vision.class"]),
                self._keep(weights["vision.position"]),
            ),
            self._parts("vision.patch"),
            self._parts("vision.pre_norm"),
            [[self._parts(f"vision.layers.{i}.{name}") for name in LAYER] for i in range(spec.num_layers)],
            (self._parts("projector.0"), self._parts("projector.1")),
        )
        del self._weights

    def encode(self, pixels: Tensor) -> Tensor:
        """See `VisionTower.encode`."""
        n, side = len(pixels), self._spec.image_size
        tokens_nNP = torch.empty(n, self._spec.num_image_tokens, self._width)
        given = address(pixels, torch.uint8, (n, 3, side, side))
        self._core.encode(given, n, tokens_nNP.data_ptr(), torch.get_num_threads())
        return tokens_nNP

    def _parts(self, name: str) -> tuple[int, int]:
        """Addresses of a weight, packed if it is a matrix, and its bias, 0 for none."""
        weight, bias = self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias")
        kept = self._keep(pack(weight) if weight.ndim == 2 else weight)
        return kept, 0 if bias is None else self._keep(bias)

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor.contiguous())
        return self._kept[-1].data_ptr()


def normalised_levels(preprocess: Preprocess) -> Tensor:
    """What each level of each color becomes: float32 [3, 256]."""
    mean, std = (torch.tensor(values)[:, None] for values in (preprocess.mean, preprocess.std))
    return (torch.arange(256).float() / 255 - mean) / std
