"""The matrix products of the decoder, at the numbers of rows of a step: operations a second by precision.

Mixed steps have 4096 to 6144 rows, decode steps 256 to 512; FP8 has one scale instead of a row's up to 256, as the
engine has it. The best number of rows is where slots and images of a
prefill should land: tiles that do not fill the last wave of the card cost up to a sixth.
"""

from collections.abc import Callable
from typing import Any

import torch

from recap_fast.generate.ops.linear import has_row_wise_products
from recap_fast.generate.spec import TextSpec
from suite.setting import Findings, Setting, seconds_of

MIXED, DECODE = range(4096, 6145, 128), range(256, 513, 64)
TINY = (range(32, 65, 32), range(17, 18))


def run(setting: Setting) -> Findings:
    """Sweeps precisions, shapes and rows."""
    found = setting.find("gemm")
    sweeps = (MIXED, DECODE) if setting.is_real else TINY
    for precision in _precisions(setting.device):
        for kind, sweep in zip(("mixed", "decode"), sweeps, strict=True):
            with found.trying(f"{precision}, {kind} rows"):
                table = {rows: _rows(setting, precision, rows) for rows in sweep}
                found.details.setdefault(precision, {}).update(table)
                _add(found, f"{precision}, {kind} rows", {rows: rates["all"] for rows, rates in table.items()})
    return found


def _add(found: Findings, what: str, rates: dict[int, float]) -> None:
    best, worst = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
    found.add(f"{what}: best at {best}", f"{rates[best]:,.2f} TFLOP/s", f"worst {rates[worst]:,.2f} at {worst}")


def _precisions(device: str) -> list[str]:
    has_fp8 = device == "cuda" and torch.cuda.get_device_capability() >= (8, 9)
    return ["bfloat16", *(["fp8"] if has_fp8 else []), "int8"]


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
    a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
    row_wise = rows > 256 and has_row_wise_products(torch.device(device))
    scale_a, scale_b = (
        torch.ones(n, 1, device=device) if row_wise else torch.ones(1, device=device) for n in (rows, side_out)
    )
    return lambda: torch._scaled_mm(
        a8,
        b8.t(),
        scale_a=scale_a,
        scale_b=scale_b.t(),
        out_dtype=torch.bfloat16 if row_wise else torch.float32,
        use_fast_accum=True,
    )
