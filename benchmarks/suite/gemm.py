"""The matrix products of the decoder, at the numbers of rows of a step: operations a second by precision.

Mixed steps have 4096 to 6144 rows, decode steps 320 to 512. FP8 products have a scale for each row and channel, or one
scale for each matrix. Slots and images of a prefill should add up to the best number of rows: tiles that do not fill
the last wave of the card cost up to a sixth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recap_fast.generate.model_spec import TextSpec
from suite.setting import Findings, Setting, seconds_of

FP8 = torch.float8_e4m3fn
MIXED, DECODE = range(4096, 6145, 128), range(320, 513, 64)
TINY = (range(32, 65, 32), range(17, 18))


@dataclass(frozen=True)
class Fp8:
    """One way to multiply FP8 matrices."""

    by_row: bool
    """Whether there is a scale for each row and channel, or one for each matrix."""
    out: torch.dtype
    """Of the product."""
    fast: bool = True
    """`use_fast_accum`: whether sums have fewer bits than float32."""

    def product(self, a: Tensor, b: Tensor, row_scale: Tensor, channel_scale: Tensor) -> Callable[[], Tensor]:
        """The call: [R, K] and [N, K] with scales [R, 1] and [N] make [R, N]."""
        one = torch.ones(1, device=a.device)
        scales = (row_scale, channel_scale[None]) if self.by_row else (one, one)

        def run() -> Tensor:
            product: Tensor = torch._scaled_mm(
                a, b.t(), scale_a=scales[0], scale_b=scales[1], out_dtype=self.out, use_fast_accum=self.fast
            )
            return product

        return run


KINDS = {
    "row": Fp8(by_row=True, out=torch.bfloat16),
    "tensor16": Fp8(by_row=False, out=torch.bfloat16),
    "tensor32": Fp8(by_row=False, out=torch.float32),
    "row32": Fp8(by_row=True, out=torch.float32),
    "tensor16slow": Fp8(by_row=False, out=torch.bfloat16, fast=False),
}
"""By row or with one scale, and what comes out; the engine takes 'row' on Hopper and 'tensor16' elsewhere."""


def run(setting: Setting) -> Findings:
    """Sweeps precisions, shapes and rows."""
    found = setting.find("gemm")
    sweeps = (MIXED, DECODE) if setting.is_real else TINY
    for precision in _precisions(setting.device):
        for kind, sweep in zip(("mixed", "decode"), sweeps, strict=True):
            with found.trying(f"{precision}, {kind} step"):
                table = {rows: _rows(setting, precision, rows) for rows in sweep}
                found.details.setdefault(precision, {}).update(table)
                known = setting.card.products if setting.card is not None and kind == "mixed" else {}
                rates = {n: rates["all"] for n, rates in table.items()}
                _add(found, f"{precision}, {kind} step", rates, known.get(precision.partition(" ")[0]))
    return found


def _add(found: Findings, what: str, rates: dict[int, float], expected: float | None) -> None:
    best, worst = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
    should = None if expected is None else expected / 1e12
    found.figure(f"{what}: best at {best} rows, {rates[worst]:,.2f} at {worst}", rates[best], None, "TFLOP/s", should)


def _precisions(device: str) -> list[str]:
    has_fp8 = device == "cuda" and torch.cuda.get_device_capability() >= (8, 9)
    return ["bfloat16", *(["fp8 row", "fp8 tensor16"] if has_fp8 else []), "int8"]


def _rows(setting: Setting, precision: str, rows: int) -> dict[str, float]:
    """TFLOP/s of the four products of a layer, and of all together."""
    shapes = layer_shapes(setting.shape.text)
    seconds, operations = {}, {}
    for name, (side_in, side_out) in shapes.items():
        seconds[name] = seconds_of(_product(precision, rows, side_in, side_out, setting.device), setting.device)
        operations[name] = 2 * rows * side_in * side_out
    rates = {name: operations[name] / seconds[name] / 1e12 for name in shapes}
    return {**rates, "all": sum(operations.values()) / sum(seconds.values()) / 1e12}


def layer_shapes(text: TextSpec) -> dict[str, tuple[int, int]]:
    """Width of what goes in and of what comes out of the linear layers of a decoder layer, by name."""
    width, inner = text.hidden_size, text.intermediate_size
    heads, kv_heads = text.num_heads * text.head_dim, text.num_kv_heads * text.head_dim
    return {
        "qkv": (width, heads + 2 * kv_heads),
        "out": (heads, width),
        "gate_up": (width, 2 * inner),
        "down": (inner, width),
    }


def _product(precision: str, rows: int, side_in: int, side_out: int, device: str) -> Callable[[], Any]:
    """[rows, side_in] by the transpose of [side_out, side_in], as the engine's linear layers call torch."""
    a, b = (torch.randn(n, side_in, device=device, dtype=torch.bfloat16) for n in (rows, side_out))
    if precision == "bfloat16":
        return lambda: torch.nn.functional.linear(a, b)
    if precision == "int8":
        a8, b8 = ((x * 32).clamp(-127, 127).to(torch.int8) for x in (a, b))
        return lambda: torch._int_mm(a8, b8.t())
    scale_a, scale_b = torch.ones(rows, 1, device=device), torch.ones(side_out, device=device)
    return KINDS[precision.removeprefix("fp8 ")].product(a.to(FP8), b.to(FP8), scale_a, scale_b)
