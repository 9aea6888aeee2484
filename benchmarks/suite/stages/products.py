"""Matrix products: which FP8 ones the card's library takes at all, and how fast each kind is at the step's shapes."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from suite.gemm import FP8, KINDS, layer_shapes
from suite.probe import Probe
from suite.setting import seconds_of

ODD_SHAPES = {"q": (4096, 4096), "kv": (4096, 2048), "tiny": (64, 128), "narrow": (160, 64), "demo": (192, 320)}
"""Of halves of a layer's product, and of small models: width in and out."""
NUM_ROWS = (1, 5, 16, 96, 128, 256, 257, 320, 448, 456, 512, 600, 5248)
CHECKED_ROWS = (5, 448)
BAR = 1e-2
MIXED, DECODE = 5248, 448
"""Rows of a step with a prefill and of one without."""
SWEEP = (4096, 4224, 4352, 4608, 4864, 4992, 5120, 5184, 5312, 5376, 5632, 6144, 8440)
PATCHES = 577
"""Of an image in the vision tower, the class token with them."""
COPY_BYTES = 1 << 31


def scaled_mm(probe: Probe, found: dict[str, Any]) -> None:
    """Which FP8 products are refused or wrong, by shape and rows."""
    refused, wrong, tried = [], [], 0
    shapes = layer_shapes(probe.setting.shape.text) | (ODD_SHAPES if probe.setting.is_real else {})
    for name, (width, channels) in shapes.items():
        b = (torch.randn(channels, width, device=probe.device) / 4).to(FP8)
        scale_b = torch.rand(channels, device=probe.device) + 0.5
        for rows in NUM_ROWS if probe.setting.is_real else NUM_ROWS[:3]:
            a = torch.randn(rows, width, device=probe.device).to(FP8)
            scale_a = torch.rand(rows, 1, device=probe.device) + 0.5
            for kind in ("row", "tensor16", "tensor32"):
                tried += 1
                try:
                    given = KINDS[kind].product(a, b, scale_a, scale_b)().float()
                except (RuntimeError, ValueError) as error:
                    refused.append((name, rows, kind, str(error)[:90]))
                    continue
                if rows in CHECKED_ROWS:
                    scales = scale_a * scale_b if KINDS[kind].by_row else 1.0
                    expected = a.float() @ b.float().t() * scales
                    difference = float((given - expected).norm() / expected.norm())
                    if not difference < BAR:
                        wrong.append((name, rows, kind, difference))
    found |= {"refused": refused, "wrong": wrong}
    probe.add(f"FP8 products: {tried} tried, {len(refused)} refused, wrong", f"{len(wrong)}", "0", not wrong)


def gemm(probe: Probe, found: dict[str, Any]) -> None:
    """TFLOP/s at the real shapes: which FP8 product to take, and whether the recipe's rows are the right number."""
    real = probe.setting.is_real
    found["copy TB/s"] = _copy_rate(probe, COPY_BYTES if real else 1 << 16)
    probe.add("copy", f"{found['copy TB/s']:.2f} TB/s")
    side = 8192 if real else 64
    kinds = ["bfloat16", *(KINDS if probe.is_gpu else ())]
    found["square"] = {kind: _rate(probe, side, kind, {"square": (side, side)}).get("all") for kind in kinds}
    shapes = layer_shapes(probe.setting.shape.text)
    for rows in (MIXED, DECODE) if real else (40, 6):
        rates = found[f"{rows} rows"] = {kind: _rate(probe, rows, kind, shapes) for kind in kinds}
        for kind in kinds[:4]:
            figure = f"{rates[kind]['all']:,.2f} TFLOP/s" if "all" in rates[kind] else "refused"
            probe.add(f"a layer's products, {rows} rows, {kind}", figure)
    if probe.is_gpu:
        found["sweep"] = {
            rows: {kind: _rate(probe, rows, kind, shapes).get("all") for kind in ("row", "tensor16")} for rows in SWEEP
        }
    found["vision"] = {label: _linear_rate(probe, *sides) for label, sides in _vision_products(probe)}


def _copy_rate(probe: Probe, num_bytes: int) -> float:
    """TB/s read and written."""
    x = torch.empty(num_bytes, dtype=torch.uint8, device=probe.device)
    y = torch.empty_like(x)
    return 2 * num_bytes / seconds_of(lambda: y.copy_(x), probe.setting.device) / 1e12


def _rate(probe: Probe, rows: int, kind: str, shapes: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """TFLOP/s of each product and of all together; what is refused says why."""
    rates: dict[str, Any] = {}
    seconds, operations = 0.0, 0
    for name, (width, channels) in shapes.items():
        a, b = (torch.randn(n, width, device=probe.device, dtype=torch.bfloat16) for n in (rows, channels))
        scale_a, scale_b = torch.ones(rows, 1, device=probe.device), torch.ones(channels, device=probe.device)
        run = _linear(a, b) if kind == "bfloat16" else KINDS[kind].product(a.to(FP8), b.to(FP8), scale_a, scale_b)
        try:
            took = seconds_of(run, probe.setting.device, calls=8)
        except (RuntimeError, ValueError) as error:
            rates[name] = str(error)[:60]
            continue
        rates[name] = 2 * rows * width * channels / took / 1e12
        seconds, operations = seconds + took, operations + 2 * rows * width * channels
    return {**rates, "all": operations / seconds / 1e12} if operations else rates


def _linear(a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    return lambda: F.linear(a, b)


def _vision_products(probe: Probe) -> Iterable[tuple[str, tuple[int, int, int]]]:
    """Rows, width in and out of the tower's layers: for images with and without their class token's row."""
    vision = probe.setting.shape.vision
    width, inner, tokens = vision.hidden_size, vision.intermediate_size, vision.num_image_tokens
    for rows in (8 * (tokens + 1), 8 * tokens, 7 * (tokens + 1), 16 * (tokens + 1)):
        for sides in ((width, 3 * width), (width, width), (width, inner), (inner, width)):
            yield f"{rows} x {sides[0]} x {sides[1]}", (rows, *sides)


def _linear_rate(probe: Probe, rows: int, width: int, channels: int) -> float:
    """TFLOP/s with a bias, in bfloat16."""
    a, b, bias = (
        torch.randn(*shape, device=probe.device, dtype=torch.bfloat16)
        for shape in ((rows, width), (channels, width), (channels,))
    )
    seconds = seconds_of(lambda: F.linear(a, b, bias), probe.setting.device, calls=20)
    return 2 * rows * width * channels / seconds / 1e12
