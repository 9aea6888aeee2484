"""Each form of a linear layer beside the product that it stands for."""

from typing import Any

import pytest
import torch
from support import tolerance
from support.fp8_card import Card
from support.tolerance import assert_within, exact
from torch.nn import functional as F

from recap_fast.generate.ops import Quantized, Unscaled, linear, plain
from recap_fast.generate.ops.linear import Linear, make_linear, quantize_channels


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(weight: torch.Tensor, dtype: torch.dtype = torch.float32, **more: torch.Tensor) -> Linear:
    return make_linear({"a.weight": weight, **{f"a.{k}": v for k, v in more.items()}}, "a", plain, dtype)


def eight_bits(
    x: Quantized, values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> tolerance.Inexact:
    """The product of numbers of 8 bits; sums of integers are exact."""
    sums = tolerance.product(exact(x.values), exact(values.T))
    sums = exact(sums.value) if values.dtype == torch.int8 else sums
    return tolerance.dequantize(sums, x.scale, scale, bias)


@pytest.mark.parametrize("rows", [1, 3, 32, 300])
@pytest.mark.parametrize("has_bias", [False, True])
def test_float32(rows: int, has_bias: bool) -> None:
    x, weight, bias = random(rows, 48), random(80, 48, seed=1), random(80, seed=2) if has_bias else None
    got = layer(weight, **({} if bias is None else {"bias": bias}))(x)
    assert_within(got, tolerance.linear(exact(x), weight, bias))


def test_leading_dimensions_are_kept() -> None:
    x, weight = random(2, 5, 48), random(80, 48, seed=1)
    assert_within(layer(weight)(x), tolerance.linear(exact(x), weight))
    values, scale = quantize_channels(weight, torch.int8)
    assert layer(values, scale=scale)(x).shape == (2, 5, 80)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    x, weight = random(7, 64).to(dtype), random(96, 64, seed=1).to(dtype)
    assert_within(layer(weight, dtype)(x), tolerance.linear(exact(x), weight).rounded(dtype))


def test_some_output_channels_alone() -> None:
    x, weight = random(3, 48), random(80, 48, seed=1)
    values, scale = quantize_channels(weight, torch.int8)
    expected = tolerance.linear(exact(x), weight), eight_bits(plain.quantize_rows(x, torch.int8), values, scale)
    for weights, whole in zip(({"a.weight": weight}, {"a.weight": values, "a.scale": scale}), expected, strict=True):
        part = make_linear(weights, "a", plain, torch.float32, slice(32, 64))(x)
        assert_within(part, whole[:, 32:64])


@pytest.mark.parametrize(("dtype", "error"), [(torch.int8, 0.02), (torch.float8_e4m3fn, 0.05)])
@pytest.mark.parametrize("output", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 9, 40])
def test_eight_bits(dtype: torch.dtype, error: float, output: torch.dtype, rows: int) -> None:
    """Equal to the product of the rounded numbers, and near that of the exact ones."""
    x, weight, bias = random(rows, 64), random(32, 64, seed=1), random(32, seed=2)
    values, scale = quantize_channels(weight, dtype)
    product = layer(values, output, scale=scale, bias=bias)
    assert product.quantize == dtype
    got, unrounded = product(x.to(output)), F.linear(x, weight, bias)
    assert got.dtype == output
    assert (got.float() - unrounded).norm() < (error + 0.01 * (output == torch.bfloat16)) * unrounded.norm()
    rounded = plain.quantize_rows(x.to(output), dtype)
    assert_within(got, eight_bits(rounded, values, scale, bias).rounded(output))
    assert torch.equal(product(rounded), got), "rows may come quantized"


def fp8_layer(channels: int = 32, bias: torch.Tensor | None = None) -> tuple[linear._Fp8, torch.Tensor, torch.Tensor]:
    """A layer as a card has it, whose readers apply scales; its numbers and their scales."""
    values, scale = quantize_channels(random(channels, 64, seed=1), torch.float8_e4m3fn)
    product = linear._Fp8(values, scale, bias, plain, torch.bfloat16)
    product._defers_scales = True
    return product, values, scale


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("rows", [1, 257])
@pytest.mark.parametrize("has_bias", [False, True])
def test_fp8_products_of_a_card_on_a_cpu(
    rows: int, row_wise: bool, has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales are a row's own, also where the product takes only one: then they and the bias are left to the reader."""
    card = Card(monkeypatch, row_wise=row_wise)
    bias = 10 * random(32, seed=2).bfloat16() if has_bias else None
    product, values, scale = fp8_layer(bias=bias)
    x = (random(rows, 64) * (1 + torch.arange(rows)[:, None])).bfloat16()
    quantized = plain.quantize_rows(x, values.dtype)
    sums = tolerance.product(exact(quantized.values), exact(values.T))
    left = sums if row_wise else sums.rounded(torch.bfloat16)
    expected = tolerance.dequantize(left, quantized.scale, scale, bias).rounded(torch.bfloat16)
    assert_within(product(x), expected)
    got = product.product(quantized)
    assert isinstance(got, torch.Tensor if row_wise else Unscaled)
    assert_within(plain.apply_scales(got), expected)
    assert card.asked == [rows if row_wise else 1] * 2


def test_a_refused_product_has_one_scale_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, refuses=(5,))
    (first, values, scale), (second, *_), (other, *_) = fp8_layer(), fp8_layer(), fp8_layer(48)
    x = plain.quantize_rows(random(5, 64), torch.float8_e4m3fn)
    expected = eight_bits(x, values, scale).rounded(torch.bfloat16, times=2)
    assert_within(plain.apply_scales(first.product(x)), expected)
    assert linear.refused_products(values.device) == ["5x64x32"]
    assert_within(plain.apply_scales(second.product(x)), expected)
    assert card.asked == [5, 1, 1], "each shape is tried once"
    assert isinstance(second.product(plain.quantize_rows(random(6, 64), values.dtype)), torch.Tensor)
    other.product(x)
    assert card.asked[3:] == [6, 5, 1], "another shape may be taken"
    assert linear.refused_products(values.device) == ["5x64x32", "5x64x48"]
    assert linear.refused_products(torch.device("cuda", 1)) == []


def test_no_memory_is_not_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch)
    product, *_ = fp8_layer()

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "_scaled_mm", fail)
    with pytest.raises(torch.OutOfMemoryError):
        product.product(plain.quantize_rows(random(5, 64), torch.float8_e4m3fn))
    assert linear.refused_products(torch.device("cpu")) == []


def test_int8_where_the_processor_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    x, (values, scale) = random(5, 64), quantize_channels(random(32, 64, seed=1), torch.int8)
    expected = layer(values, scale=scale)(x)
    monkeypatch.setattr(linear, "cpu_multiplies_int8", lambda: False)
    emulated = layer(values, scale=scale)
    monkeypatch.setattr(torch, "_int_mm", None)
    assert torch.equal(emulated(x), expected), "so few integers are summed up exactly"


def test_overflowing_products_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturate(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Unsigned times signed, as AVX2 has it: the first factor is moved up by 128, pairs are added in 16 bits."""
        products = (a[:, :, None].int() + 128) * b[None].int()
        pairs = (products[:, 0::2] + products[:, 1::2]).clamp(-(2**15), 2**15 - 1)
        return pairs.sum(1) - 128 * b.int().sum(0)

    monkeypatch.setattr(torch, "_int_mm", saturate)
    assert not linear.cpu_multiplies_int8.__wrapped__()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_channels_of_zeros_and_of_extremes_stay_what_they_are(dtype: torch.dtype) -> None:
    weight = torch.tensor([[0.0, 0.0], [3e38, -3e38], [1e-9, -1e-9], [1e-30, 0.0]])
    values, scale = quantize_channels(weight, dtype)
    assert scale.dtype == torch.float32
    assert (values.float() * scale[:, None]).allclose(weight, rtol=1e-6, atol=1e-12)
    assert values[0].tolist() == [0, 0]
    assert scale[0] == scale[3] == pytest.approx(1e-12), "the smallest scale"
    assert layer(values, scale=scale)(torch.zeros(1, 2)).isfinite().all()
