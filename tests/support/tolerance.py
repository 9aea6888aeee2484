"""How far a computation in floats may end from the exact one: derived from its roundings, here and nowhere else.

A test computes the exact result in float64 with `Inexact` numbers, which carry along what a computation in lower
precision may lose on the way, and compares with `assert_within`. So the tolerance is what the operation can lose, by
its width, its depth, its magnitudes and how it treats errors of its arguments, and not a number that was tried out.

One rounding. A float with p bits of precision is off by at most u = 2**-p of its magnitude (`unit`: 2**-24 for
float32, 2**-8 for bfloat16).

Many roundings, to first order. Errors d_i of the arguments of f give f an error of sum |df/dx_i| d_i. There are two
bounds of what comes together, and the smaller one counts.
- `worst`: all roundings are as large as they can be, and of the worst sign. Nothing can be beyond it, but it grows with
  the sum of the magnitudes of a matrix's row, while numbers grow with the root of the sum of their squares. After a
  few layers it allows everything.
- `SIGMAS` times the root of `variance`: roundings know nothing of one another, so their variances add up, sum
  (df/dx_i)**2 v_i, and n of them come to the root of n (N. Higham and T. Mary, "A new approach to probabilistic
  rounding error analysis", 2019). The standard deviation of a rounding is taken as u, which is more than twice what it
  is: at most u / sqrt(3) where errors are spread evenly, and less for most mantissas. What leaves room for the errors
  that are not independent is `SIGMAS`: m roundings of the same sign come to at most sqrt(m) standard deviations, so 64
  of them are still within 8.

A sum S of n terms t_i, in whatever order: each of its roundings is at most u times a partial sum. That is at most
sum |t_i|, which makes n u sum |t_i| for `worst` (gamma_n without its second order). In no particular order the partial
sum of k terms has the mean k S / n and the variance of k draws without replacement, k (1 - k / n) sum t_i**2 / n; the
squares of all n come to n S**2 / 3 + n sum t_i**2 / 6 at most, a third of the n (S**2 + sum t_i**2) used here.

A norm damps errors along its argument (of a row of one number nearly all of them) and magnifies others where the
argument is small. The softmax turns an error of a score into as much, relative, of its weight, which moves the mean
only as far as its value lies from it. Both are in the derivatives.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recap_fast.generate.ops import Activation, Quantized

SIGMAS = 8.0
EXP_ROUNDINGS = 4
"""An exponential is right to 2e-7 of itself: csrc/cpu/kernels/numbers.hpp."""
GELU_ERROR = 3e-7
"""Of gelu, absolute: csrc/cpu/kernels/product.hpp."""


def unit(dtype: torch.dtype) -> float:
    """What a rounding to this type changes at most, relative."""
    return torch.finfo(dtype).eps / 2


@dataclass(frozen=True, slots=True)
class Inexact:
    """Exact results in float64, and what a computation of them may lose; all of one shape."""

    value: Tensor
    worst: Tensor
    """Of the absolute error."""
    variance: Tensor

    @property
    def tolerance(self) -> Tensor:
        """How far from `value` a computation may end."""
        return torch.minimum(self.worst, SIGMAS * self.variance.sqrt())

    def map(self, action: Callable[[Tensor], Tensor]) -> "Inexact":
        """Moves numbers, without computing any."""
        return Inexact(action(self.value), action(self.worst), action(self.variance))

    def __getitem__(self, index: Any) -> "Inexact":
        return self.map(lambda x: x[index])

    def rounded(self, dtype: torch.dtype = torch.float32, times: float = 1.0) -> "Inexact":
        """After so many roundings to this type."""
        return self.plus_error(unit(dtype) * self.value.abs(), times)

    def plus_error(self, error: Tensor, times: float = 1.0) -> "Inexact":
        """After so many errors of at most this magnitude."""
        return Inexact(self.value, self.worst + times * error, self.variance + times * error**2)


def exact(x: Tensor) -> Inexact:
    """Numbers that are what they are."""
    value = x.double()
    return Inexact(value, torch.zeros_like(value), torch.zeros_like(value))


def join(parts: list[Inexact], dim: int = 0) -> Inexact:
    """`torch.cat`."""
    return Inexact(*(torch.cat([getattr(x, name) for x in parts], dim) for name in ("value", "worst", "variance")))


def derived(value: Tensor, *arguments: tuple[Tensor | float, Inexact]) -> Inexact:
    """Results whose derivative by each of the arguments is given; not yet rounded."""
    worst = sum((abs(derivative) * x.worst for derivative, x in arguments), torch.zeros_like(value))
    variance = sum((derivative**2 * x.variance for derivative, x in arguments), torch.zeros_like(value))
    return Inexact(value, worst, variance)


def add(a: Inexact, b: Inexact) -> Inexact:
    """a + b in float32."""
    return derived(a.value + b.value, (1.0, a), (1.0, b)).rounded()


def product(a: Inexact, b: Inexact) -> Inexact:
    """a @ b in float32: [..., M, K] and [..., K, N]."""
    u, depth = unit(torch.float32), a.value.shape[-1]
    value, sizes, squares = a.value @ b.value, a.value.abs() @ b.value.abs(), a.value**2 @ b.value**2
    worst = a.value.abs() @ b.worst + a.worst @ b.value.abs() + (depth + 1) * u * sizes
    variance = a.value**2 @ b.variance + a.variance @ b.value**2 + u**2 * (squares + depth * (value**2 + squares))
    return Inexact(value, worst, variance)


def linear(x: Inexact, weight: Tensor, bias: Tensor | None = None) -> Inexact:
    """x W^T (+ b) in float32."""
    y = product(x, exact(weight.T))
    return y if bias is None else add(y, exact(bias))


def rms_norm(x: Inexact, weight: Tensor, eps: float, dtype: torch.dtype = torch.float32) -> Inexact:
    """Of the last dimension; `dtype` is the model's precision, which intermediate results are rounded to."""
    width = x.value.shape[-1]
    factor = (x.value.pow(2).mean(-1, keepdim=True) + eps).rsqrt()
    along = x.value * factor / width**0.5  # of unit length, but for eps
    own = 1 - along**2  # the derivative by another number is minus the product of both
    y = Inexact(
        x.value * factor,
        factor * (own * x.worst + along.abs() * _others(along.abs() * x.worst)),
        factor**2 * (own**2 * x.variance + along**2 * _others(along**2 * x.variance).clamp(min=0)),
    )
    return scaled(_squares_rounded(y, width).rounded(dtype), weight).rounded(dtype)


def layer_norm(x: Inexact, weight: Tensor, bias: Tensor, eps: float) -> Inexact:
    """Of the last dimension, in float32."""
    width, u = x.value.shape[-1], unit(torch.float32)
    mean = x.value.mean(-1, keepdim=True)
    centered = x.value - mean
    factor = (centered.pow(2).mean(-1, keepdim=True) + eps).rsqrt()
    z = centered * factor
    own = 1 - (1 + z**2) / width  # the derivative by another number is -(1 + z_i z_j) / width
    others = _others(x.worst) + z.abs() * _others(z.abs() * x.worst)
    other_variances = _others(x.variance) + 2 * z * _others(z * x.variance) + z**2 * _others(z**2 * x.variance)
    y = Inexact(
        z,
        factor * (own.abs() * x.worst + others / width),
        factor**2 * (own**2 * x.variance + other_variances.clamp(min=0) / width**2),
    )
    sums = (width - 1) * u * x.value.abs().mean(-1, keepdim=True)  # nothing damps the mean's own error
    sum_variance = (width - 1) * u**2 * (mean**2 + (x.value / width).pow(2).sum(-1, keepdim=True))
    y = Inexact(y.value, y.worst + factor * sums, y.variance + factor**2 * sum_variance).rounded()
    return add(scaled(_squares_rounded(y, width), weight), exact(bias))


def _others(x: Tensor) -> Tensor:
    """For each number of a row the sum of the others."""
    return x.sum(-1, keepdim=True) - x


def _squares_rounded(y: Inexact, width: int) -> Inexact:
    """The sum of squares has only positive terms, and half of its relative error is the norm's; three more roundings:
    the division, the root and the product with it."""
    return y.rounded(times=3).plus_error(unit(torch.float32) * y.value.abs() / 2, times=width + 1)


def scaled(x: Inexact, factor: Tensor) -> Inexact:
    """x * factor in float32."""
    return derived(x.value * factor.double(), (factor.double(), x)).rounded()


def swiglu(gate: Inexact, up: Inexact, dtype: torch.dtype = torch.float32) -> Inexact:
    """silu(gate) * up, both factors and the product rounded to `dtype`.

    A card computes the exponential in powers of two: it rounds the argument, times a rounded constant, in float32.
    """
    s = gate.value.sigmoid()
    silu, slope = gate.value * s, s * (1 + gate.value * (1 - s))
    y = derived(silu * up.value, (slope * up.value, gate), (silu, up))
    y = y.plus_error(unit(torch.float32) * (gate.value * (1 - s) * silu * up.value).abs(), times=2)
    return y.rounded(times=EXP_ROUNDINGS + 3).rounded(dtype, times=2)


def quick_gelu(x: Inexact, dtype: torch.dtype = torch.float32) -> Inexact:
    """x * sigmoid(1.702 x); the argument, the sigmoid and the product are rounded to `dtype`."""
    s = (1.702 * x.value).sigmoid()
    y = derived(x.value * s, (s * (1 + 1.702 * x.value * (1 - s)), x))
    y = y.plus_error(unit(dtype) * (1.702 * x.value**2 * s * (1 - s)).abs(), times=2)
    return y.rounded(times=EXP_ROUNDINGS + 2).rounded(dtype, times=2)


def gelu_tanh(x: Inexact, dtype: torch.dtype = torch.float32) -> Inexact:
    """x / 2 * (1 + tanh(t)), t = sqrt(2 / pi) * (x + 0.044715 x^3), rounded to `dtype`; also x * sigmoid(2 t).

    The first form cancels where x is below 0: the tangent and the sum err by a part of 1, whatever is left of it.
    """
    root, half = math.sqrt(2 / math.pi), x.value / 2
    t = root * x.value * (1 + 0.044715 * x.value**2)
    tanh, left = t.tanh(), t.cosh() ** -2
    y = derived(half * (1 + tanh), ((1 + tanh) / 2 + half * left * root * (1 + 3 * 0.044715 * x.value**2), x))
    y = y.plus_error(unit(torch.float32) * (half * left * t).abs().nan_to_num(0.0), times=6)
    y = y.plus_error(unit(torch.float32) * half.abs(), times=3)
    return y.rounded(times=EXP_ROUNDINGS + 2).rounded(dtype)


def gelu(x: Inexact) -> Inexact:
    """x * Phi(x) in float32."""
    phi = 0.5 * torch.special.erfc(-x.value / math.sqrt(2))
    density = torch.exp(-(x.value**2) / 2) / math.sqrt(2 * math.pi)
    y = derived(x.value * phi, (phi + x.value * density, x)).rounded(times=3)
    return y.plus_error(torch.full_like(y.value, GELU_ERROR))


def rotate(x: Inexact, cos: Tensor, sin: Tensor, dtype: torch.dtype = torch.float32) -> Inexact:
    """Llama's rotation of x [..., E] in halves; `sin` has the first half negated. Rounded to `dtype` on the way."""
    half = x.value.shape[-1] // 2
    swapped = x.map(lambda t: torch.cat([t[..., half:], t[..., :half]], -1))
    return add(scaled(x, cos).rounded(dtype), scaled(swapped, sin).rounded(dtype)).rounded(dtype)


def dequantize(sums: Inexact, row_scale: Tensor, channel_scale: Tensor, bias: Tensor | None) -> Inexact:
    """sums * row_scale * channel_scale + bias in float32."""
    y = scaled(scaled(sums.rounded(), row_scale), channel_scale)
    return y if bias is None else add(y, exact(bias))


def attention(
    q: Inexact, k: Inexact, v: Inexact, visible: Tensor | None = None, weights: torch.dtype = torch.float32
) -> Inexact:
    """softmax(q k^T / sqrt(E)) v in float32: q [..., L, E], k and v [..., T, E], `visible` bool [..., L, T].

    The softmax's weights are rounded to `weights` where they are multiplied, and not where they are summed up.
    """
    u, length = unit(torch.float32), k.value.shape[-2]
    scale = torch.tensor(q.value.shape[-1] ** -0.5, dtype=torch.float64)
    scores = scaled(product(q, k.map(lambda x: x.mT)), scale).rounded(times=2)
    masked = scores.value if visible is None else scores.value.masked_fill(~visible, float("-inf"))
    below = (masked.amax(-1, keepdim=True) - scores.value).clamp(min=0)
    p = masked.softmax(-1)
    scores = scores.plus_error(u * below).plus_error(torch.full_like(p, u), times=EXP_ROUNDINGS + 1)
    value, sizes, squares = p @ v.value, p @ v.value.abs(), p**2 @ v.value**2
    moved, moved_variance = p * scores.worst, p**2 * scores.variance
    spread = moved_variance @ v.value**2 - 2 * value * (moved_variance @ v.value)
    spread += value**2 * moved_variance.sum(-1, keepdim=True)
    out = Inexact(
        value,
        moved @ v.value.abs() + moved.sum(-1, keepdim=True) * value.abs() + p @ v.worst,
        spread.clamp(min=0) + p**2 @ v.variance,
    )
    of_weights = unit(weights)
    sums, sum_variance = (length + 1) * u * sizes, u**2 * (squares + length * (value**2 + squares))
    out = Inexact(
        value,
        out.worst + sums + of_weights * sizes,
        out.variance + sum_variance + of_weights**2 * squares,
    )
    return out.plus_error(u * value.abs(), times=length + 1)  # the sum of the weights, which it is divided by


def near(value: Tensor, tolerance: Tensor) -> Inexact:
    """What may be off by so much, for certain."""
    return Inexact(value, tolerance, tolerance**2)


def assert_within(got: Activation, expected: Inexact) -> None:
    """Fails where a result is further from the exact one than its roundings explain, and where it is not a number."""
    if isinstance(got, Quantized):
        _assert_quantized(got, expected)
        return
    assert got.shape == expected.value.shape, (got.shape, expected.value.shape)
    error = (got.double() - expected.value).abs()
    allowed = expected.tolerance + torch.finfo(torch.float32).tiny
    if not (error <= allowed).all():
        ratio = (error / allowed).nan_to_num(nan=float("inf")).flatten()
        i = int(ratio.argmax())
        where = tuple(int(n) for n in torch.unravel_index(torch.tensor(i), error.shape))
        number, wanted, most = (float(x.flatten()[i]) for x in (got, expected.value, allowed))
        raise AssertionError(
            f"{int((~(error <= allowed)).sum())} of {error.numel()} numbers are too far off: {number:.9g} at {where} "
            f"should be {wanted:.9g} within {most:.3g} and is off by {ratio[i]:.3g} times that"
        )


def _assert_quantized(got: Quantized, expected: Inexact) -> None:
    """Each number in 8 bits is the nearest there is to one that is within."""
    if not got.values.numel():
        return
    is_int8, u = got.values.dtype == torch.int8, unit(torch.float32)
    largest = 127.0 if is_int8 else torch.finfo(got.values.dtype).max
    scale = expected.value.abs().amax(-1, keepdim=True).clamp(min=1e-12 * largest) / largest
    assert_within(got.scale, near(scale, expected.tolerance.amax(-1, keepdim=True) / largest + 2 * u * scale))
    scale = got.scale.double()
    step = scale / 2 if is_int8 else torch.maximum(expected.value.abs() / 16, scale * 2.0**-10)
    allowed = expected.tolerance + step * (1 + 2.0**-16) + 4 * u * expected.value.abs()
    assert_within(got.values.double() * scale, near(expected.value, allowed))
