"""The roofline of an engine: what its captions cost in operations and bytes, and how fast this machine could do that.

Costs follow from engine.json and from counts; a multiply-add is two operations. Norms, activations and other passes
over rows cost nothing here: what they take is the engine's loss. Rates are measured in the same process. The limit is
the serial one: matrix products, then reads of keys and values; weights are read while products run.
"""

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from recap_fast.generate.engine import Statistics
from recap_fast.generate.ops import Activation, plain
from recap_fast.generate.ops.linear import make_linear, quantize_channels
from recap_fast.generate.ops.select import select_ops
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.vision.loading import model_dtype

CUDA_SIDE, CPU_SIDE = 8192, 2048
"""Of the square matrices that are multiplied: a few milliseconds on a card, some tens on a processor."""
CUDA_COPY_BYTES, CPU_COPY_BYTES = 2 << 30, 256 << 20
"""More than any cache holds."""
MEASURE_S, CUDA_CALLS = 0.3, 10
"""Each rate is the best of what fits into these seconds, at least three; calls a measurement on a card."""


def operations(spec: EngineSpec, work: Statistics, prefix_tokens: int) -> dict[str, float]:
    """Operations by part, for all images together, which have `prefix_tokens` positions before them.

    Causal attention is counted exactly where all texts have the same length; each sees the prefix, its image and
    itself. In the last decoder layer keys and values are computed for all rows, everything else only for the rows that
    a token is read from.
    """
    vision, text = spec.vision, spec.text
    tokens, rows = vision.num_image_tokens, vision.num_positions
    tower = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    keys_values = 2 * text.hidden_size * text.num_kv_heads * text.head_dim
    layer, early = _layer_size(spec), text.num_layers - 1
    pair = 2 * text.num_heads * text.head_dim  # one query position with one key position
    before = prefix_tokens + tokens
    behind = (work.prompt_tokens - work.images * tokens) / max(1, work.captions)
    pairs = work.images * _causal(prefix_tokens, tokens) + work.captions * _causal(before, behind)
    multiply_adds = {
        "vision_linear": work.images
        * (vision.num_layers * rows * tower + vision.num_patches * 3 * vision.patch_size**2 * vision.hidden_size),
        "vision_attention": work.images * vision.num_layers * rows**2 * 2 * vision.hidden_size,
        "projector": work.images * tokens * (vision.hidden_size + text.hidden_size) * text.hidden_size,
        "prefill_linear": work.prompt_tokens * (early * layer + keys_values) + work.captions * (layer - keys_values),
        "prefill_attention": pair * (early * pairs + work.captions * (before + behind)),
        "decode_linear": work.decode_rows * text.num_layers * layer,
        "decode_attention": work.kv_positions * text.num_layers * pair,
        "head": (work.captions + work.decode_rows) * text.vocab_size * text.hidden_size,
    }
    return {part: 2.0 * count for part, count in multiply_adds.items()}


def _causal(before: int, new: float) -> float:
    """Pairs of positions of so many new ones, which see themselves and all before them."""
    return new * before + new * (new + 1) / 2


def kv_bytes_per_position(spec: EngineSpec, item_bytes: int) -> int:
    """Keys and values of one position in all layers, at `item_bytes` a number."""
    return 2 * spec.text.num_layers * spec.text.num_kv_heads * spec.text.head_dim * item_bytes


def decode_weight_bytes(spec: EngineSpec, linear_bytes: int, other_bytes: int) -> int:
    """Weights that a step of decode rows alone reads: linear layers, and the head; bytes a number of each."""
    text = spec.text
    return text.num_layers * _layer_size(spec) * linear_bytes + text.vocab_size * text.hidden_size * other_bytes


def _layer_size(spec: EngineSpec) -> int:
    """Weights of one decoder layer's linear parts."""
    text = spec.text
    heads = 2 * (text.num_heads + text.num_kv_heads)
    return text.hidden_size * (heads * text.head_dim + 3 * text.intermediate_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What this machine reaches."""

    precisions: tuple[str, str]
    """Of the linear layers, and of all that is not in 8 bits."""
    linear: float
    """Operations a second of a large matrix product in the first of them."""
    other: float
    """The same in the second."""
    copy: float
    """Bytes a second, read and written together, of a large copy."""

    def __str__(self) -> str:
        pairs = zip((self.linear, self.other), self.precisions, strict=True)
        products = dict.fromkeys(f"{rate / 1e12:,.2f} TFLOP/s {precision}" for rate, precision in pairs)
        return f"{', '.join(products)}; copy {self.copy / 1e9:,.0f} GB/s"


def measure_rates(device: torch.device, linear: torch.dtype, other: torch.dtype) -> Rates:
    """Measures them on a device, in about a second; on a CPU with the products that the engine itself uses."""
    is_cuda = device.type == "cuda"
    side, count = (CUDA_SIDE, CUDA_COPY_BYTES) if is_cuda else (CPU_SIDE, CPU_COPY_BYTES)
    with torch.inference_mode():
        copied = 2 * count / _seconds(_copy(device, count), device)
        others = 2 * side**3 / _seconds(_product(device, other, other, side), device)
        linears = others if linear == other else 2 * side**3 / _seconds(_product(device, linear, other, side), device)
    if is_cuda:
        torch.cuda.empty_cache()
    names = (str(linear).removeprefix("torch."), str(other).removeprefix("torch."))
    return Rates(precisions=names, linear=linears, other=others, copy=copied)


def _copy(device: torch.device, num_bytes: int) -> Callable[[], Any]:
    source, target = (torch.zeros(num_bytes, dtype=torch.uint8, device=device) for _ in range(2))
    return lambda: target.copy_(source)


def _product(device: torch.device, dtype: torch.dtype, other: torch.dtype, side: int) -> Callable[[], Any]:
    """Multiplies two square matrices of random numbers: they take more power, so less clock, than zeros."""
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    if dtype == torch.int8:
        (values, _), (weight, _) = plain.quantize_rows(a, dtype), plain.quantize_rows(b, dtype)
        return lambda: torch._int_mm(values, weight.t())
    ops = select_ops(device, other)
    rows: Activation
    if dtype.itemsize > 1:
        rows, weights = a.to(dtype), {"product.weight": b.to(dtype)}
    else:
        weight, scale = quantize_channels(b, dtype)
        rows, weights = plain.quantize_rows(a, dtype), {"product.weight": weight, "product.scale": scale}
    layer = make_linear(weights, "product", ops, other)
    return lambda: layer(rows)


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    calls = CUDA_CALLS if device.type == "cuda" else 1
    found: list[float] = []
    run()
    end = time.perf_counter() + MEASURE_S
    while len(found) < 3 or time.perf_counter() < end:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append((time.perf_counter() - start) / calls)
    return min(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How an engine did, beside what its machine could."""

    share: float
    """Of the serial roofline: the least time that products and reads of keys and values take, over the time taken."""
    operations: dict[str, float]
    kv_bytes: int
    """Read by decode rows."""
    decode_bytes_per_s: float | None
    """Weights and keys and values that steps of decode rows alone read, over their seconds; None without such steps."""
    device_s: dict[str, float]
    """Seconds in 'mixed' and in 'decode' steps."""
    idle_s: dict[str, float]
    startup_s: dict[str, float]


class Roofline:
    """What one engine is measured against."""

    def __init__(self, spec: EngineSpec, device: torch.device, prefix_tokens: int):
        """Measures the rates of the device. `prefix_tokens` is the number of positions before each image."""
        other = model_dtype(spec, device)
        linear = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}.get(spec.precision, other)
        cache = torch.float8_e4m3fn if spec.kv_precision == "fp8" else other
        self.rates = measure_rates(device, linear, other)
        self._spec, self._prefix_tokens = spec, prefix_tokens
        self._kv_bytes = kv_bytes_per_position(spec, cache.itemsize)
        self._weight_bytes = decode_weight_bytes(spec, linear.itemsize, other.itemsize)
        self._linear_parts = {"prefill_linear", "decode_linear"}
        if spec.precision == "int8" and device.type == "cpu":
            self._linear_parts.add("vision_linear")  # see load_weights

    def figures(self, done: Statistics, seconds: float) -> Figures:
        """Of the work that took the engine so many seconds."""
        parts, kv_bytes = operations(self._spec, done, self._prefix_tokens), done.kv_positions * self._kv_bytes
        linear = sum(count for part, count in parts.items() if part in self._linear_parts)
        products_s = linear / self.rates.linear + (sum(parts.values()) - linear) / self.rates.other
        read = done.decode_steps * self._weight_bytes + done.decode_step_kv_positions * self._kv_bytes
        return Figures(
            share=(products_s + kv_bytes / self.rates.copy) / seconds,
            operations=parts,
            kv_bytes=kv_bytes,
            decode_bytes_per_s=read / done.decode_s if done.decode_s > 0 else None,
            device_s={"mixed": done.mixed_s, "decode": done.decode_s},
            idle_s=dict(done.idle_s),
            startup_s=dict(done.startup_s),
        )

    def least_seconds(self, num_text: int, num_tokens: int) -> float:
        """The time of one image with so many tokens of text after it, and a caption of so many tokens."""
        prompt, rows = self._spec.vision.num_image_tokens + num_text, num_tokens - 1
        positions = rows * (self._prefix_tokens + prompt) + rows * num_tokens // 2
        work = Statistics(images=1, captions=1, prompt_tokens=prompt, decode_rows=rows, kv_positions=positions)
        return self.figures(work, seconds=1.0).share


def snapshot(statistics: Statistics) -> Statistics:
    """A copy that stays as it is while the engine goes on counting."""
    return copy.deepcopy(statistics)


def difference(before: Statistics, after: Statistics) -> Statistics:
    """What an engine did between two snapshots; its start-up stays whole."""
    done = snapshot(after)
    for field in dataclasses.fields(Statistics):
        if field.name not in ("idle_s", "startup_s"):
            setattr(done, field.name, getattr(after, field.name) - getattr(before, field.name))
    done.idle_s = {reason: spent - before.idle_s.get(reason, 0.0) for reason, spent in after.idle_s.items()}
    return done
