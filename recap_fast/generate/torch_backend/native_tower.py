"""The layers of CLIP's vision tower in float32 on CPUs, all in one call of C++ (csrc/cpu_tower.hpp).

The same numbers as those of vision.py, which are their truth, but for the order of sums; native_llama.py says what for.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recap_fast.generate.spec import VisionSpec
from recap_fast.generate.torch_backend.ops import native
from recap_fast.generate.torch_backend.ops.native import address, pack

# Letters: n images, S positions each, D width.


class NativeTower:
    """All layers of a tower whose activation is quick_gelu."""

    def __init__(self, spec: VisionSpec, weights: Mapping[str, Tensor]):
        self._width = spec.hidden_size
        self._kept = [self._layer(weights, f"vision.layers.{i}") for i in range(spec.num_layers)]
        self._core = native.core.Tower(
            (spec.hidden_size, spec.intermediate_size, spec.num_heads),
            spec.norm_eps,
            [tuple(tensor.data_ptr() for tensor in layer) for layer in self._kept],  # C++ keeps the addresses alone
        )

    def __call__(self, x_nSD: Tensor) -> Tensor:
        """What the last layer gives; overwrites `x`."""
        n, length, _ = x_nSD.shape
        x = address(x_nSD, torch.float32, (n, length, self._width))
        self._core.forward(x, n, length, torch.get_num_threads())
        return x_nSD

    @staticmethod
    def _layer(weights: Mapping[str, Tensor], name: str) -> list[Tensor]:
        """In the order of `core.Tower`."""
        tensors = []
        for part in ("norm1", "qkv", "out", "norm2", "fc1", "fc2"):
            weight = weights[f"{name}.{part}.weight"]
            tensors += [pack(weight) if weight.ndim == 2 else weight, weights[f"{name}.{part}.bias"]]
        return tensors
