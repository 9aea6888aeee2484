"""Attention of images where cuDNN is right, refuses a shape, or is wrong: a fake one stands in for it."""

import re

import pytest
import torch
from support import tolerance
from support.tolerance import assert_within, exact
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from recap_fast.generate.device import WITHOUT
from recap_fast.generate.vision.attention import OTHERS, ImageAttention

SHAPE = 2, 3, 17, 16


class Hopper:
    """What torch says of such a card, and attention on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, factor: float = 1.0, error: Exception | None = None):
        """`factor` is what cuDNN's results are off by; `error` is what it raises instead."""
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
        self._factor, self._error = factor, error
        self.used: list[SDPBackend] = []

    def attend(self, backends: list[SDPBackend], *qkv: torch.Tensor) -> torch.Tensor:
        self.used.append(backends[0])
        if backends[0] != SDPBackend.CUDNN_ATTENTION:
            return F.scaled_dot_product_attention(*qkv)
        if self._error is not None:
            raise self._error
        return self._factor * F.scaled_dot_product_attention(*qkv)

    def attention(self) -> ImageAttention:
        return ImageAttention(torch.device("cuda", 0), self.attend)


def numbers(*shape: int, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    return [torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(3)]


def test_cudnn_is_taken_where_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    card, qkv = Hopper(monkeypatch), numbers(*SHAPE)
    attention = card.attention()
    for _ in range(2):
        assert torch.equal(attention(*qkv), F.scaled_dot_product_attention(*qkv))
    flash, cudnn = OTHERS[0], SDPBackend.CUDNN_ATTENTION
    assert card.used == [flash, cudnn, cudnn, cudnn], "it was tried once"
    assert attention.rejected == {}


@pytest.mark.parametrize(
    ("factor", "error", "reason"),
    [
        (1.1, None, r"off by (9|10|11)\.\d%"),
        (float("nan"), None, "off by nan%"),
        (
            1.0,
            RuntimeError("No execution plans support the graph."),
            r"refused: No execution plans support the graph\.",
        ),
    ],
)
def test_cudnn_is_not_taken_where_it_refuses_or_is_wrong(
    factor: float, error: Exception | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, qkv = Hopper(monkeypatch, factor, error), numbers(*SHAPE)
    attention = card.attention()
    for _ in range(2):
        assert torch.equal(attention(*qkv), F.scaled_dot_product_attention(*qkv))
    assert card.used[2:] == [OTHERS[0]] * 2, "after it was tried"
    assert list(attention.rejected) == [SHAPE]
    assert re.fullmatch(reason, attention.rejected[SHAPE])


def test_each_shape_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Hopper(monkeypatch, 2.0)
    attention = card.attention()
    for shape in (SHAPE, (1, *SHAPE[1:]), SHAPE):
        attention(*numbers(*shape))
    assert list(attention.rejected) == [SHAPE, (1, *SHAPE[1:])]


def test_no_memory_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = Hopper(monkeypatch, error=torch.OutOfMemoryError("CUDA out of memory")).attention()
    with pytest.raises(torch.OutOfMemoryError):
        attention(*numbers(*SHAPE))


def test_cudnn_is_not_asked_for_what_it_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32; another card; an environment that leaves it out."""
    card = Hopper(monkeypatch)
    float32, bfloat16 = numbers(*SHAPE, dtype=torch.float32), numbers(*SHAPE)
    card.attention()(*float32)
    monkeypatch.setenv(WITHOUT, "cudnn-attention")
    card.attention()(*bfloat16)
    monkeypatch.delenv(WITHOUT)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    card.attention()(*bfloat16)
    assert card.used == []


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
@pytest.mark.parametrize("width", [64, 72, 20])
def test_heads_of_any_width(width: int, device: str) -> None:
    """On a Hopper by cuDNN, where it takes them: CLIP has heads of 64, SigLIP-so400m of 72."""
    qkv = numbers(2, 3, 50, width)
    got = ImageAttention(torch.device(device))(*(x.to(device) for x in qkv)).cpu()
    expected = tolerance.attention(*map(exact, qkv), weights=torch.bfloat16)
    assert_within(got, expected.rounded(torch.bfloat16))
