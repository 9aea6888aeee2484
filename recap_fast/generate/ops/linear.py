"""Linear layers y = x W^T (+ b), with W as [out, in], each in the form that is fastest on its device.

plain    torch's own, any device and precision
packed   oneDNN with weights reordered once: float32 and bfloat16 on a CPU
int8     W8A8: `torch._int_mm`, CPU and CUDA
fp8      W8A8 in e4m3: `torch._scaled_mm` on cards that have FP8, row-wise on Hopper; elsewhere emulated in float32

The scales of a product in 8 bits are applied in the product itself (row-wise), in a pass over it (on a CPU), or by the
operation that reads it (`Unscaled`, on a GPU).
"""

import functools
import logging
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from recap_fast.generate.device import disabled_kernels
from recap_fast.generate.ops import Activation, Ops, Product, Quantized, Unscaled, plain

logger = logging.getLogger(__name__)

# Letters: R rows, D width, N output channels.

PACKED_ROWS = 256
"""The number of rows that the layout of packed weights is chosen for; any number may be multiplied."""


class Linear:
    """A linear layer."""

    quantize: torch.dtype | None = None
    """The 8-bit type that the rows are multiplied in; rows in the model's precision are brought to it first."""

    def __call__(self, x: Activation) -> Tensor:
        """[..., D] to [..., N] in the model's precision; quantized rows have two dimensions."""
        raise NotImplementedError

    def product(self, x: Activation) -> Product:
        """As a call, of rows [R, D]; but the operation that reads the result may have to apply its scales."""
        return self(x)


def make_linear(
    weights: Mapping[str, Tensor], name: str, ops: Ops, dtype: torch.dtype, channels: slice = slice(None)
) -> Linear:
    """The layer of `name`.weight, with `name`.bias and `name`.scale where there are such; `dtype` is its output's.

    `channels` are the output channels to take.
    """
    weight, bias, scale = (
        None if tensor is None else tensor[channels]
        for tensor in (weights.get(f"{name}.{kind}") for kind in ("weight", "bias", "scale"))
    )
    assert weight is not None, name
    if scale is None:
        return _Packed(weight, bias) if _can_pack(weight) else _Plain(weight, bias)
    form: type[_Scaled] = _Int8 if weight.dtype == torch.int8 else _Fp8
    if weight.device.type == "cpu" and (form is _Fp8 or not cpu_multiplies_int8()):
        form = _Emulated
    return form(weight, scale, bias, ops, dtype)


class _Plain(Linear):
    def __init__(self, weight: Tensor, bias: Tensor | None):
        self._weight, self._bias = weight, bias

    def __call__(self, x: Activation) -> Tensor:
        assert isinstance(x, Tensor)
        return F.linear(x, self._weight, self._bias)


class _Packed(Linear):
    """Torch multiplies float32 through MKL, which on AMD processors stays at half of what oneDNN reaches, and hands
    bfloat16 to oneDNN unordered at every call."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self._weight, self._bias = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS), bias

    def __call__(self, x: Activation) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


def _can_pack(weight: Tensor) -> bool:
    """Whether torch was built with oneDNN and this processor has its instructions for the weight's precision."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


class _Scaled(Linear):
    """A layer in 8 bits: weights with a scale for each output channel, activations with one for each row."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, ops: Ops, dtype: torch.dtype):
        self._weight, self._scale = weight, scale.float()
        self._bias = None if bias is None else bias.float()
        self._ops, self._dtype = ops, dtype
        self._defers_scales = weight.device.type != "cpu"  # on a CPU, C++ applies them in a pass
        self.quantize = weight.dtype

    def __call__(self, x: Activation) -> Tensor:
        y = self._multiply(self._quantized(x))
        y = self._ops.dequantize(y) if isinstance(y, Unscaled) else y
        return y if isinstance(x, Quantized) else y.view(*x.shape[:-1], -1)

    def product(self, x: Activation) -> Product:
        return self._multiply(self._quantized(x)) if self._defers_scales else self(x)

    def _quantized(self, x: Activation) -> Quantized:
        if isinstance(x, Quantized):
            return x
        return self._ops.quantize_rows(x.reshape(-1, x.shape[-1]), self._weight.dtype)

    def _unscaled(self, sums_RN: Tensor, x: Quantized) -> Unscaled:
        return Unscaled(sums_RN, x.scale, self._scale, self._dtype, self._bias)

    def _multiply(self, x: Quantized) -> Product:
        raise NotImplementedError


MIN_INT_MM_ROWS = 17
"""`torch._int_mm` on CUDA takes no fewer rows."""


class _Int8(_Scaled):
    def _multiply(self, x: Quantized) -> Product:
        values, rows = x.values, len(x.values)
        if values.is_cuda and rows < MIN_INT_MM_ROWS:
            values = F.pad(values, (0, 0, 0, MIN_INT_MM_ROWS - rows))
        return self._unscaled(torch._int_mm(values, self._weight.t())[:rows], x)


class _Emulated(_Scaled):
    """In float32: right on any device, and slow. Sums of int8 are exact up to 1,040 columns, then rounded."""

    def _multiply(self, x: Quantized) -> Product:
        sums_RN = F.linear(x.values.float(), self._weight.float())
        return self._unscaled(sums_RN, x)


@functools.cache
def cpu_multiplies_int8() -> bool:
    """Whether `torch._int_mm` is right on this processor.

    Without VNNI or AMX oneDNN 3.12 adds pairs of products in 16 bits, after moving one factor up by 128: they overflow.
    """
    largest = torch.full((32, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest.t()) == 64 * 127**2).all())


def has_row_wise_products(device: torch.device) -> bool:
    """Whether FP8 products with a scale for each row go through cuBLASLt there, which is so on Hopper alone.

    On older cards torch 2.11 has a kernel for them that ignores the stream, so that no graph can hold it
    (https://github.com/pytorch/pytorch/issues/177651); on newer ones cuBLAS has none.
    """
    return torch.cuda.get_device_capability(device) == (9, 0) and "row-wise-fp8" not in disabled_kernels()


_refused: set[tuple[torch.device, int, int, int]] = set()
"""Row-wise FP8 products that a card's library does not take, such as those of up to 256 rows and many columns
(https://github.com/pytorch/ao/issues/4582): device, rows, channels and columns. Each is tried once in a process."""


def refused_products(device: torch.device) -> list[str]:
    """The row-wise FP8 products that were refused on a device, as rows x columns x channels."""
    shapes = sorted(shape for where, *shape in _refused if where == device)
    return [f"{rows}x{columns}x{channels}" for rows, channels, columns in shapes]


class _Fp8(_Scaled):
    """Row-wise where the card takes the shape; else without scales, which the operation that reads the product applies.

    Such sums do not overflow bfloat16, which has the range of float32. The runs before a capture find out which shapes
    the card refuses.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, ops: Ops, dtype: torch.dtype):
        super().__init__(weight, scale, bias, ops, dtype)
        self._one = torch.ones(1, device=weight.device)
        self._added = None if bias is None else bias.to(dtype)
        self._is_row_wise = has_row_wise_products(weight.device)

    def _multiply(self, x: Quantized) -> Product:
        shape = (self._weight.device, len(x.values), *self._weight.shape)
        if self._is_row_wise and shape not in _refused:
            try:
                return self._scaled_mm(x.values, x.scale, self._scale[None], self._added)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                logger.info("A row-wise FP8 product was refused, and is computed without scales instead: %s", error)
                _refused.add(shape)
        return self._unscaled(self._scaled_mm(x.values, self._one, self._one), x)

    def _scaled_mm(
        self, values: Tensor, row_scale: Tensor, channel_scale: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        y: Tensor = torch._scaled_mm(
            values,
            self._weight.t(),
            scale_a=row_scale,
            scale_b=channel_scale,
            bias=bias,
            out_dtype=self._dtype,
            use_fast_accum=True,
        )
        return y


def quantize_channels(weight_ND: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A weight in 8 bits [N, D] and float32 scales [N], one for each output channel: a row is stored * scale.

    `build-engine` writes these, and an int8 engine's vision tower is quantized so where it is loaded. `Ops` quantizes
    the rows of activations by the same rule.
    """
    values, scale = plain.quantize_rows(weight_ND, dtype)
    return values, scale[:, 0]
