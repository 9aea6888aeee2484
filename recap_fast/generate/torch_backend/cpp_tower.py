"""CLIP's vision tower and the projector in float32 on CPUs, in one call of C++ (csrc/cpu/tower.hpp).

The same numbers as `vision.VisionTower`, which is its truth, but for the order of sums; native_llama.py says what for.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recap_fast.generate.ops import cpp
from recap_fast.generate.ops.cpp import address, pack
from recap_fast.generate.spec import VisionSpec
from recap_fast.records import Preprocess

# Letters: n images, N patches, P width of the decoder.


class NativeTower:
    """Has the face of `VisionTower`."""

    def __init__(self, spec: VisionSpec, preprocess: Preprocess, weights: Mapping[str, Tensor]):
        width, inner, out = spec.hidden_size, spec.intermediate_size, len(weights["projector.1.weight"])
        if width % spec.num_heads:
            raise ValueError(f"{width} channels cannot be divided among {spec.num_heads} heads")
        self._spec, self._width = spec, out
        self._kept: list[Tensor] = []  # C++ has their addresses
        layer = {
            "norm1": (width,),
            "qkv": (3 * width, width),
            "out": (width, width),
            "norm2": (width,),
            "fc1": (inner, width),
            "fc2": (width, inner),
        }
        self._core = cpp.core.Tower(
            (spec.image_size, spec.patch_size, width, inner, spec.num_heads, out),
            spec.norm_eps,
            spec.activation == "quick_gelu",
            (
                self._keep(normalized_levels(preprocess), (3, 256)),
                self._keep(weights["vision.class"], (width,)),
                self._keep(weights["vision.position"], (spec.num_image_tokens + 1, width)),
            ),
            self._parts(weights, "vision.patch", (width, 3 * spec.patch_size**2)),
            self._parts(weights, "vision.pre_norm", (width,)),
            [
                [self._parts(weights, f"vision.layers.{i}.{name}", shape) for name, shape in layer.items()]
                for i in range(spec.num_layers)
            ],
            (
                self._parts(weights, "projector.0", (out, width)),
                self._parts(weights, "projector.1", (out, out)),
            ),
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """See `VisionTower.encode`."""
        n, side = len(pixels), self._spec.image_size
        tokens_nNP = torch.empty(n, self._spec.num_image_tokens, self._width)
        given = address(pixels, torch.uint8, (n, 3, side, side))
        self._core.encode(given, n, tokens_nNP.data_ptr(), torch.get_num_threads())
        return tokens_nNP

    def _parts(self, weights: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> tuple[int, int]:
        """Addresses of a norm's weight and bias, or of a packed matrix and its bias, 0 for none."""
        weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
        if len(shape) == 1:
            return self._keep(weight, shape), self._keep(weights[f"{name}.bias"], shape)
        self._kept.append(pack(weight, (shape[0], shape[1])))
        return self._kept[-1].data_ptr(), 0 if bias is None else self._keep(bias, shape[:1])

    def _keep(self, tensor: Tensor, shape: tuple[int, ...]) -> int:
        """The address of a float32 tensor that is kept from now on. Raises ValueError for another kind of tensor."""
        self._kept.append(tensor.contiguous())
        return address(self._kept[-1], torch.float32, shape)


def normalized_levels(preprocess: Preprocess) -> Tensor:
    """What each level of each color becomes: float32 [3, 256]."""
    mean, std = (torch.tensor(values)[:, None] for values in (preprocess.mean, preprocess.std))
    return (torch.arange(256).float() / 255 - mean) / std
