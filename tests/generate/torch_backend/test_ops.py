"""The operations beside their definitions, in float64 where that says more."""

import pytest
import torch
from torch.nn import functional as F

from recap_fast.generate.spec import RopeSpec
from recap_fast.generate.torch_backend import ops


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 3, 32, 300])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(rows: int, bias: bool) -> None:
    x, weight = random(rows, 48), random(80, 48, seed=1)
    b = random(80, seed=2) if bias else None
    torch.testing.assert_close(ops.Linear(weight, b)(x), F.linear(x, weight, b), rtol=1e-5, atol=1e-5)


def test_linear_keeps_leading_dimensions() -> None:
    x, weight = random(2, 5, 48), random(80, 48, seed=1)
    torch.testing.assert_close(ops.Linear(weight)(x), F.linear(x, weight), rtol=1e-5, atol=1e-5)


def test_linear_in_bfloat16() -> None:
    x, weight = random(7, 64).bfloat16(), random(96, 64, seed=1).bfloat16()
    exact = F.linear(x.double(), weight.double())
    torch.testing.assert_close(ops.Linear(weight)(x).double(), exact, rtol=2e-2, atol=2e-2)


def test_fp8_linear_is_near_the_product() -> None:
    x, weight = random(9, 64), random(32, 64, seed=1)
    scale = weight.abs().amax(1) / 448
    quantised = (weight / scale[:, None]).to(torch.float8_e4m3fn)
    got, exact = ops.Linear(quantised, scale=scale)(x), x @ weight.T
    assert (got - exact).norm() < 0.05 * exact.norm()
    rounded = quantised.float() * scale[:, None]
    x_scale = x.abs().amax(1, keepdim=True) / 448
    torch.testing.assert_close(got, ((x / x_scale).to(torch.float8_e4m3fn).float() * x_scale) @ rounded.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype: torch.dtype) -> None:
    x, weight = (3 * random(5, 64)).to(dtype), (1 + 0.1 * random(64, seed=1)).to(dtype)
    exact = x.double() / (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(ops.rms_norm(x, weight, 1e-5).double(), exact, rtol=tolerance, atol=tolerance)


def test_swiglu() -> None:
    gate, up = random(4, 8), random(4, 8, seed=1)
    torch.testing.assert_close(ops.swiglu(torch.cat([gate, up], -1)), gate * torch.sigmoid(gate) * up)


def test_rotation_turns_pairs_by_their_angle() -> None:
    cos, sin = ops.rope_table(RopeSpec(theta=10000.0), 8, 20)
    x = random(20, 3, 8)
    turned = ops.rotate(x, cos, sin)
    for position in (0, 1, 19):
        for i in range(4):
            angle = torch.tensor(position / 10000.0 ** (2 * i / 8))
            a, b = x[position, :, i], x[position, :, i + 4]
            torch.testing.assert_close(turned[position, :, i], a * angle.cos() - b * angle.sin())
            torch.testing.assert_close(turned[position, :, i + 4], b * angle.cos() + a * angle.sin())


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: int) -> torch.Tensor:
    """One query [H, E] over the first `visible` of keys and values [K, T, E], written out."""
    group = q.shape[0] // k.shape[0]
    out = []
    for head in range(q.shape[0]):
        keys, values = k[head // group, :visible].double(), v[head // group, :visible].double()
        weights = (keys @ q[head].double() / q.shape[-1] ** 0.5).softmax(0)
        out.append(weights @ values)
    return torch.cat(out).float()


def test_prefill_attention_sees_all_before_it() -> None:
    q, k, v = random(2, 4, 5, 8), random(2, 2, 9, 8, seed=1), random(2, 2, 9, 8, seed=2)
    got = ops.prefill_attention(q, k, v)
    for n in range(2):
        for row in range(5):
            torch.testing.assert_close(got[n, row], attention(q[n, :, row], k[n], v[n], 5 + row))


def test_decode_attention_reads_each_slot_to_its_position() -> None:
    q, k, v = random(3, 4, 8), random(3, 2, 9, 8, seed=1), random(3, 2, 9, 8, seed=2)
    visible = [1, 4, 9]
    mask = torch.zeros(3, 1, 1, 9)
    for row, count in enumerate(visible):
        mask[row, ..., count:] = float("-inf")
    got = ops.decode_attention(q, k, v, mask)
    for row, count in enumerate(visible):
        torch.testing.assert_close(got[row], attention(q[row], k[row], v[row], count))
