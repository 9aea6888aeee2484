"""FP8 products of a card, on a CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor

from recap_fast.generate.ops import linear


class Card:
    """Takes the place of `torch._scaled_mm`, whose product on CPUs is row-wise in later versions than 2.11 alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: tuple[int, ...] | None = (), *, row_wise: bool = True):
        """Row-wise products of so many rows are refused; None for all."""
        self.asked: list[int] = []
        """How many scales the rows of each product had."""
        self._refuses = refuses
        monkeypatch.setattr(torch, "_scaled_mm", self.multiply)
        monkeypatch.setattr(linear, "has_row_wise_products", lambda _: row_wise)
        monkeypatch.setattr(linear, "_refused", set())

    def multiply(
        self,
        values: Tensor,
        weight: Tensor,
        *,
        scale_a: Tensor,
        scale_b: Tensor,
        bias: Tensor | None,
        out_dtype: torch.dtype,
        **_: Any,
    ) -> Tensor:
        self.asked.append(scale_a.numel())
        if scale_a.ndim == 2 and (self._refuses is None or len(values) in self._refuses):
            raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmulAlgoGetHeuristic")
        y = values.float() @ weight.float() * scale_a * scale_b
        return (y if bias is None else y + bias.float()).to(out_dtype)
