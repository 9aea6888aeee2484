"""What tests/support/tolerance.py allows: the roundings of float32, and no mistake that a kernel might make."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from support import exact_model, tolerance
from support.tolerance import Inexact, assert_within, exact
from torch import Tensor
from torch.nn import functional as F

from inputs import shapes
from recap_fast.generate.layout import plan_text
from recap_fast.generate.model_spec import RopeSpec, TextSpec
from recap_fast.generate.ops import Rows, plain
from recap_fast.generate.torch_backend.llama import KVCache, Llama, rope_table

WIDTH, EPS = 64, 1e-5
CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def change(x: Tensor, factor: float) -> Tensor:
    """The same but for one number."""
    x = x.clone()
    x.view(-1)[x.numel() // 2] *= factor
    return x


X, WEIGHT, BIAS = random(5, WIDTH), 1 + 0.1 * random(WIDTH, seed=1), random(WIDTH, seed=2)
MATRIX = random(WIDTH, WIDTH, seed=3) / WIDTH**0.5
Q, K, V = random(3, 1, WIDTH, seed=4), random(3, 100, WIDTH, seed=5), random(3, 100, WIDTH, seed=6)
ROPE = rope_table(RopeSpec(theta=10000.0), WIDTH, 9)
RIGHT: dict[str, tuple[Callable[[], Tensor], Inexact]] = {
    "linear": (lambda: F.linear(X, MATRIX, BIAS), tolerance.linear(exact(X), MATRIX, BIAS)),
    "rms norm": (lambda: F.rms_norm(X, (WIDTH,), WEIGHT, EPS), tolerance.rms_norm(exact(X), WEIGHT, EPS)),
    "layer norm": (
        lambda: F.layer_norm(X, (WIDTH,), WEIGHT, BIAS, EPS),
        tolerance.layer_norm(exact(X), WEIGHT, BIAS, EPS),
    ),
    "swiglu": (lambda: F.silu(X) * X.flip(0), tolerance.swiglu(exact(X), exact(X.flip(0)))),
    "quick gelu": (lambda: X * torch.sigmoid(1.702 * X), tolerance.quick_gelu(exact(X))),
    "gelu": (lambda: F.gelu(X), tolerance.gelu(exact(X))),
    "gelu by tanh": (lambda: F.gelu(X, approximate="tanh"), tolerance.gelu_tanh(exact(X))),
    "gelu by sigmoid": (
        lambda: X * torch.sigmoid(1.5957691 * X * (1 + 0.044715 * X * X)),
        tolerance.gelu_tanh(exact(X)),
    ),
    "rotation": (
        lambda: plain.rotate(X[None], ROPE, torch.tensor([7])),
        tolerance.rotate(exact(X[None]), ROPE.cos[7], ROPE.sin[7]),
    ),
    "attention": (lambda: F.scaled_dot_product_attention(Q, K, V), tolerance.attention(*map(exact, (Q, K, V)))),
}
WRONG: list[tuple[str, str, Callable[[], Tensor]]] = [
    ("linear", "a term is missing", lambda: F.linear(change(X, 0.0), MATRIX, BIAS)),
    ("linear", "a weight was rounded to 12 bits", lambda: F.linear(X, change(MATRIX, 1 + 2**-12), BIAS)),
    ("linear", "the last column is another", lambda: F.linear(X, MATRIX, BIAS).roll(1, 0)),
    ("rms norm", "no epsilon", lambda: F.rms_norm(X, (WIDTH,), WEIGHT, 0.0)),
    ("rms norm", "the mean is over one number less", lambda: F.rms_norm(X, (WIDTH,), WEIGHT, EPS) * (63 / 64) ** 0.5),
    ("layer norm", "no epsilon", lambda: F.layer_norm(X, (WIDTH,), WEIGHT, BIAS, 0.0)),
    ("layer norm", "no mean is subtracted", lambda: F.rms_norm(X, (WIDTH,), WEIGHT, EPS) + BIAS),
    ("swiglu", "the exponential has 17 bits", lambda: X / (1 + (-X).exp() * (1 + 2**-17)) * X.flip(0)),
    ("quick gelu", "1.7", lambda: X * torch.sigmoid(1.7 * X)),
    ("gelu", "by tanh", lambda: F.gelu(X, approximate="tanh")),
    ("gelu by tanh", "by erf", lambda: F.gelu(X)),
    ("rotation", "the next position", lambda: plain.rotate(X[None], ROPE, torch.tensor([8]))),
    ("rotation", "to the other side", lambda: plain.rotate(X[None], ROPE._replace(sin=-ROPE.sin), torch.tensor([7]))),
    ("attention", "a position too few", lambda: F.scaled_dot_product_attention(Q, K[:, :-1], V[:, :-1])),
    ("attention", "a key is off", lambda: F.scaled_dot_product_attention(Q, change(K, 1.1), V)),
    ("attention", "keys in 16 bits", lambda: F.scaled_dot_product_attention(Q, K.bfloat16().float(), V)),
]


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_within(name: str) -> None:
    got, expected = RIGHT[name]
    assert_within(got(), expected)


@pytest.mark.parametrize(("name", "mistake", "got"), WRONG, ids=[f"{name}, {mistake}" for name, mistake, _ in WRONG])
def test_what_is_wrong_is_not(name: str, mistake: str, got: Callable[[], Tensor]) -> None:
    with pytest.raises(AssertionError, match="numbers are too far off"):
        assert_within(got(), RIGHT[name][1])


def test_what_is_not_a_number_is_not_within() -> None:
    with pytest.raises(AssertionError, match="1 of 320 numbers are too far off: nan at"):
        assert_within(change(X, torch.nan), exact(X))


@pytest.mark.parametrize("width", [1, 2, 40])
def test_three_layers_still_show_a_mistake_in_the_first(width: int) -> None:
    """Also where the stream is one number wide, whose norm loses nearly all of what reaches it."""
    spec: TextSpec = dataclasses.replace(shapes.llava_llama3_8b().text, **SMALL, hidden_size=width)
    weights = exact_model.random_weights(plan_text(spec), 1)
    x, rows = random(7, width), Rows(torch.arange(7), torch.arange(7) * 5)
    cache = KVCache(spec, 7, 40, torch.float32, CPU)
    logits, _ = exact_model.decode(spec, weights, exact(x), random(*cache.data.shape, seed=2), None, rows)

    def run(weights: dict[str, Tensor], rows: Rows = rows, norm_eps: float = spec.norm_eps) -> Tensor:
        cache.data.copy_(random(*cache.data.shape, seed=2))
        llama = Llama(dataclasses.replace(spec, norm_eps=norm_eps), weights, 40, plain)
        return llama.forward(x.clone(), cache, None, rows)

    assert_within(run(weights), logits)
    mistakes = [
        run({**weights, "text.layers.0.out.weight": change(weights["text.layers.0.out.weight"], 1.01)}),
        run(weights, Rows(rows.slots, (rows.positions + 1) % 40)),
        run(weights, norm_eps=1e-3),
    ]
    for got in mistakes:
        with pytest.raises(AssertionError, match="numbers are too far off"):
            assert_within(got, logits)


SMALL = {
    "intermediate_size": 56,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "vocab_size": 75,
    "max_positions": 128,
    "tied_head": False,
}
