"""The step's own operations beside plain torch, on the device and at the shapes of a step: how far apart, and how fast.

An error is the largest difference over the largest magnitude of the plain result. Bytes are those that an operation has
to read and write once; a bandwidth near that of a copy means that nothing is left to gain.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recap_fast.generate.ops import Ops, Product, Prompts, Quantized, Rope, Rows, Unscaled, plain
from recap_fast.generate.ops.select import select_ops
from recap_fast.generate.torch_backend.llama import rope_table
from suite.setting import Findings, Setting, largest, seconds_of

MIXED_ROWS, SLOTS, POSITIONS, CONTEXT = 5248, 448, 736, 650
TINY_ROWS, TINY_SLOTS, TINY_POSITIONS, TINY_CONTEXT = 40, 6, 48, 30
PROMPTS, TINY_PROMPTS = Prompts(8, 5, 600), Prompts(2, 3, 20)
EPS = 1e-5
SHORT = {torch.float8_e4m3fn: "fp8", torch.int8: "int8"}
SUMS = {torch.float8_e4m3fn: torch.bfloat16, torch.int8: torch.int32}
"""The type of an unscaled product, by the 8-bit type of its factors."""
BAR = {torch.bfloat16: 2e-2, torch.int8: 2e-2, torch.float8_e4m3fn: 8e-2}
"""bfloat16 and int8: two roundings of about 1/128; e4m3: the step at the top of its range is 32 of 448."""
UNSCALED = 0.13
"""Of an e4m3 cache, whose largest key is just above 4: the step there is 0.5."""


def run(setting: Setting) -> Findings:
    """Compares and times each operation, in bfloat16 and in 8 bits."""
    torch.manual_seed(0)
    found, cases = setting.find("ops"), Cases(setting)
    fast = select_ops(torch.device(setting.device), torch.bfloat16)
    for name, case in cases.all().items():
        with found.trying(name):
            _measure(found, setting, name, case, fast)
    return found


def _measure(found: Findings, setting: Setting, name: str, case: "Case", fast: Ops) -> None:
    expected, given = _numbers(case.result(plain)), _numbers(case.result(fast))
    error = largest([_difference(a, b) for a, b in zip(given, expected, strict=True)])
    seconds, slow = (
        seconds_of(functools.partial(case.call, ops), setting.device, calls=calls)
        for ops, calls in ((fast, 10), (plain, 2))
    )
    rate = case.num_bytes / seconds
    found.details[name] = {"error": error, "seconds": seconds, "plain_seconds": slow, "bytes_per_s": rate}
    what = f"{name}: {rate / 1e9:,.0f} GB/s, {slow / seconds:.1f}x plain"
    should = None if setting.card is None else setting.card.streaming * setting.card.copy
    bar = f"<= {case.bar:g}"
    found.add(what, f"error {error:.1e}", bar, error <= case.bar, measured=rate, expected=should)


@dataclass(frozen=True, slots=True)
class Case:
    """One operation."""

    call: Callable[[Ops], Any]
    num_bytes: float
    """That it has to move."""
    bar: float
    """The largest error that is still right."""
    fresh: Callable[[Ops], Any] | None = None
    """Where a call changes its inputs: the same on inputs of its own, with everything that it has written."""

    def result(self, ops: Ops) -> Any:
        """What an implementation makes of the inputs."""
        return (self.fresh or self.call)(ops)


class Cases:
    """Inputs of every operation at one set of shapes."""

    def __init__(self, setting: Setting):
        self._device, self._text = setting.device, setting.shape.text
        sizes = (MIXED_ROWS, SLOTS, POSITIONS, CONTEXT)
        self._rows, self._slots, self._positions, self._context = (
            sizes if setting.is_real else (TINY_ROWS, TINY_SLOTS, TINY_POSITIONS, TINY_CONTEXT)
        )
        self._prompts = PROMPTS if setting.is_real else TINY_PROMPTS
        table = rope_table(self._text.rope, self._text.head_dim, self._positions)
        self._rope = Rope(*(t.to(self._device, torch.bfloat16) for t in table))

    def all(self) -> dict[str, Case]:
        """By name."""
        cases = {}
        for quantize in (None, torch.float8_e4m3fn, torch.int8):
            suffix = "" if quantize is None else f" to {SHORT[quantize]}"
            cases[f"add_rms_norm{suffix}"] = self._norm(quantize)
            cases[f"swiglu{suffix}"] = self._swiglu(quantize)
            if quantize is not None:
                cases[f"add_rms_norm of sums{suffix}"] = self._norm(quantize, SUMS[quantize])
                cases[f"swiglu of sums{suffix}"] = self._swiglu(quantize, SUMS[quantize])
        cases |= {"quick_gelu": self._gelu("quick_gelu"), "gelu_tanh": self._gelu("gelu_tanh")}
        cases["quantize_rows to fp8"] = self._quantize(torch.float8_e4m3fn)
        for dtype in (torch.bfloat16, torch.float8_e4m3fn):
            suffix = "" if dtype == torch.bfloat16 else ", fp8 cache"
            cases[f"rope_store{suffix}"] = self._rope_store(dtype)
            cases[f"attention of rows{suffix}"] = self._attention_of_rows(dtype)
            cases[f"attention of prompts{suffix}"] = self._attention_of_prompts(dtype)
        cases["rope_store of sums, fp8 cache"] = self._rope_store(torch.float8_e4m3fn, torch.bfloat16)
        return cases

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self._device, dtype=torch.bfloat16)

    def _product(self, width: int, sums: torch.dtype | None) -> Product:
        """Normal numbers; with `sums`, a type, an unscaled product that stands for such numbers."""
        numbers = self._random(self._rows, width)
        if sums is None:
            return numbers
        row, channel = (torch.rand(shape, device=self._device) for shape in ((self._rows, 1), (width,)))
        return Unscaled((1000 * numbers).to(sums), row / 1000, channel, torch.bfloat16)

    def _norm(self, quantize: torch.dtype | None, sums: torch.dtype | None = None) -> Case:
        width, form = self._text.hidden_size, quantize or torch.bfloat16
        x, delta, weight = self._random(self._rows, width), self._product(width, sums), self._random(width)

        def fresh(ops: Ops) -> Any:
            residual = x.clone()
            return ops.add_rms_norm(residual, delta, weight, EPS, quantize), residual

        residual = x.clone()
        num_bytes = x.numel() * (4.0 + (sums or x.dtype).itemsize + form.itemsize)
        return Case(lambda ops: ops.add_rms_norm(residual, delta, weight, EPS, quantize), num_bytes, BAR[form], fresh)

    def _swiglu(self, quantize: torch.dtype | None, sums: torch.dtype | None = None) -> Case:
        inner, form = self._text.intermediate_size, quantize or torch.bfloat16
        gate_up = self._product(2 * inner, sums)
        num_bytes = self._rows * inner * (2.0 * (sums or torch.bfloat16).itemsize + form.itemsize)
        return Case(lambda ops: ops.swiglu(gate_up, quantize), num_bytes, BAR[form])

    def _gelu(self, name: str) -> Case:
        x, dtype = self._random(self._rows, self._text.hidden_size), torch.bfloat16
        return Case(lambda ops: getattr(ops, name)(x, None), x.numel() * 4.0, BAR[dtype])

    def _quantize(self, dtype: torch.dtype) -> Case:
        x = self._random(self._rows, self._text.hidden_size)
        return Case(lambda ops: ops.quantize_rows(x, dtype), x.numel() * 3.0, BAR[dtype])

    def _cache(self, dtype: torch.dtype) -> Tensor:
        shape = (2, self._slots, self._text.num_kv_heads, self._positions, self._text.head_dim)
        return self._random(*shape).to(dtype)

    def _rope_store(self, dtype: torch.dtype, sums: torch.dtype | None = None) -> Case:
        text, cache = self._text, self._cache(dtype)
        channels = (text.num_heads + 2 * text.num_kv_heads) * text.head_dim
        kept = 2 * text.num_kv_heads * text.head_dim
        qkv = self._product(channels, sums)
        places = torch.randperm(self._slots * self._positions, device=self._device)[: self._rows]
        rows = Rows(places // self._positions, places % self._positions)

        def fresh(ops: Ops) -> Any:
            empty = torch.zeros_like(cache)
            return ops.rope_store(qkv, text.num_heads, self._rope, rows, empty), empty

        moved = self._rows * (2.0 * (2 * channels - kept) + kept * dtype.itemsize)
        bar = UNSCALED if dtype == torch.float8_e4m3fn else BAR[dtype]
        return Case(lambda ops: ops.rope_store(qkv, text.num_heads, self._rope, rows, cache), moved, bar, fresh)

    def _attention_of_rows(self, dtype: torch.dtype) -> Case:
        text, cache = self._text, self._cache(dtype)
        q = self._random(self._slots, text.num_heads, text.head_dim)
        spread = self._context // 10
        positions = torch.randint(self._context - spread, self._context + spread, (self._slots,), device=self._device)
        rows = Rows(torch.arange(self._slots, device=self._device), positions)
        read = int((positions + 1).sum()) * 2 * text.num_kv_heads * text.head_dim * dtype.itemsize
        return Case(lambda ops: ops.attention(q, cache, rows, None, None), float(read), BAR[torch.bfloat16])

    def _attention_of_prompts(self, dtype: torch.dtype) -> Case:
        """Bytes are those of keys, values and outputs, though what takes its time are operations."""
        text, cache, (num, start, length) = self._text, self._cache(dtype), self._prompts
        q = self._random(num * length, text.num_heads, text.head_dim)
        slots = torch.arange(num, device=self._device).repeat_interleave(length)
        rows = Rows(slots, torch.arange(start, start + length, device=self._device).repeat(num))
        read = num * (start + length) * 2 * text.num_kv_heads * text.head_dim * dtype.itemsize
        moved = read + 2.0 * q.nbytes
        return Case(lambda ops: ops.attention(q, cache, rows, self._prompts, None), moved, BAR[torch.bfloat16])


def _numbers(result: Any) -> list[Tensor]:
    """What an operation returned or wrote, as the float32 numbers that it stands for."""
    if isinstance(result, Quantized):
        return [result.values.float() * result.scale]
    if isinstance(result, tuple):
        return [numbers for part in result for numbers in _numbers(part)]
    return [result.float()]


def _difference(given: Tensor, expected: Tensor) -> float:
    return float((given - expected).abs().max() / expected.abs().max())
