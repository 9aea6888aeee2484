"""Pixels to image tokens: CLIP's or SigLIP's vision transformer as far as LLaVA reads it, and the projector to decoder
width."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from recap_fast.generate.model_spec import VisionSpec
from recap_fast.generate.ops import Activation, Ops
from recap_fast.generate.ops.linear import make_linear
from recap_fast.generate.ops.select import select_ops
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.vision.attention import ImageAttention
from recap_fast.generate.vision.loading import load_weights
from recap_fast.records import Preprocess

# Letters: n images, S positions (a class token first, where there is one), N of them that go to the decoder, D width of
# the tower.


class VisionTower:
    """Encodes images. Normalization is part of it: it takes uint8 pixels."""

    def __init__(self, spec: VisionSpec, preprocess: Preprocess, weights: Mapping[str, Tensor], ops: Ops):
        self._spec = spec
        self._class, self._position = weights.get("vision.class"), weights["vision.position"]
        self._pre_norm = weights.get("vision.pre_norm.weight"), weights.get("vision.pre_norm.bias")
        self._dtype, device = self._position.dtype, self._position.device
        self.attention = ImageAttention(device)
        self._layers = [
            _Layer(spec, f"vision.layers.{i}", weights, ops, self.attention) for i in range(spec.num_layers)
        ]
        self._patch, *self._projector = (
            make_linear(weights, name, ops, self._dtype) for name in ("vision.patch", "projector.0", "projector.1")
        )
        self._width = len(weights["projector.1.weight"])
        self._mean = torch.tensor(preprocess.mean, device=device)[:, None, None]
        self._std = torch.tensor(preprocess.std, device=device)[:, None, None]

    def encode(self, pixels: Tensor) -> Tensor:
        """Image tokens [n, N, width of the decoder] of uint8 pixels [n, 3, H, W]."""
        x = self._patch(self._patches(pixels))
        if self._class is not None:
            x = torch.cat([self._class.expand(len(pixels), 1, -1), x], 1)
        x = x + self._position
        if self._spec.has_pre_norm:
            x = F.layer_norm(x, x.shape[-1:], *self._pre_norm, self._spec.norm_eps)
        for layer in self._layers:
            x = layer(x)
        first, second = self._projector
        read = x[:, self._spec.num_dropped :]
        rows = read.reshape(-1, x.shape[-1])  # with three dimensions torch would run a product for each image
        return second(F.gelu(first(rows))).view(len(x), -1, self._width)

    def _patches(self, pixels: Tensor) -> Tensor:
        """Normalized pixels, a patch a row: [n, patches, 3 * p * p] in the order of the patch convolution's weights."""
        n, p = len(pixels), self._spec.patch_size
        grid = self._spec.image_size // p
        x = (pixels.float() / 255 - self._mean) / self._std
        x = x[:, :, : grid * p, : grid * p].reshape(n, 3, grid, p, grid, p).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(n, grid * grid, 3 * p * p).to(self._dtype)


def load_tower(path: Path, spec: EngineSpec, device: torch.device, *, verify: bool = True) -> VisionTower:
    """The tower in an engine's weight file. Raises ConfigError where the file is not the one that was built."""
    weights = load_weights(path, spec, device, verify=verify)
    return VisionTower(spec.vision, spec.preprocess, weights, select_ops(device, weights["vision.position"].dtype))


class _Layer:
    """One pre-norm transformer layer. It adds to its input in place."""

    def __init__(self, spec: VisionSpec, name: str, weights: Mapping[str, Tensor], ops: Ops, attention: ImageAttention):
        self._heads, self._eps, self._attention = spec.num_heads, spec.norm_eps, attention
        self._activate = make_activation(spec, ops)
        self._norms = [(weights[f"{name}.{n}.weight"], weights[f"{name}.{n}.bias"]) for n in ("norm1", "norm2")]
        dtype = self._norms[0][0].dtype
        self._qkv, self._out, self._fc1, self._fc2 = (
            make_linear(weights, f"{name}.{part}", ops, dtype) for part in ("qkv", "out", "fc1", "fc2")
        )

    def __call__(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        h = F.layer_norm(x, (width,), *self._norms[0], self._eps)
        q, k, v = self._qkv(h).view(n, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        attended = self._attention(q, k, v).transpose(1, 2).reshape(n, length, width)
        x += self._out(attended)
        h = self._fc1(F.layer_norm(x, (width,), *self._norms[1], self._eps)).flatten(0, 1)
        x += self._fc2(self._activate(h, self._fc2.quantize)).view_as(x)
        return x


def make_activation(spec: VisionSpec, ops: Ops) -> Callable[[Tensor, torch.dtype | None], Activation]:
    """The activation of a tower: of rows, returned in the 8-bit type or as they are (the one by erf always so)."""
    if spec.activation == "gelu":
        return lambda x, quantize: F.gelu(x)
    return ops.quick_gelu if spec.activation == "quick_gelu" else ops.gelu_tanh
