"""The engine at the real shape, its weights drawn on the device: milliseconds of its steps, its kernels, its rate.

First as the recipe has it, then without one of the optional kernels, to see which way is faster on this card.
"""

import os
from contextlib import closing
from dataclasses import asdict
from typing import Any
from unittest import mock

from recap_fast import machine
from recap_fast.bench.roofline import snapshot
from recap_fast.generate.device import WITHOUT
from recap_fast.generate.spec import KVPrecision, Precision
from suite import model, step
from suite.kernels import by_name
from suite.probe import Probe

VARIANTS: tuple[tuple[Precision, KVPrecision, str], ...] = (
    ("fp8", "fp8", ""),
    ("fp8", "fp8", "row-wise-fp8"),
    ("fp8", "fp8", "cuda-kernels"),
    ("bfloat16", "auto", ""),
    ("fp8", "auto", ""),
)
"""Precision, that of keys and values, and the value of `RECAP_FAST_WITHOUT`; what matters most first."""
TOKENS, TINY_TOKENS = 65, 6
WINDOW_S, TINY_WINDOW_S = 1.0, 0.1
"""At least: a window lasts until as many captions have ended as there are slots, about five seconds."""
PROFILED_STEPS, NUM_KERNELS = 4, 45


def engine(probe: Probe, found: dict[str, Any]) -> None:
    """Measures each variant that no earlier process has begun, with all slots busy.

    Kernels that the environment disables stay disabled.
    """
    for precision, kv_precision, without in VARIANTS:
        name = f"{precision}, {kv_precision} cache" + (f", without {without}" if without else "")
        if name in found:
            continue
        left_out = ",".join((os.environ.get(WITHOUT, ""), without))
        with probe.trying(found, name), mock.patch.dict(os.environ, {WITHOUT: left_out}):
            found[name] = {}
            _measure(probe, found[name], name, precision, kv_precision)


def _measure(probe: Probe, row: dict[str, Any], name: str, precision: Precision, kv_precision: KVPrecision) -> None:
    setting, tokens = probe.setting, TOKENS if probe.setting.is_real else TINY_TOKENS
    made = model.make(setting, precision, kv_precision)
    expected = step.expectation(setting, made, tokens)
    row["expected"] = None if expected is None else asdict(expected)
    if expected is not None:
        probe.add(f"{name}: expected", f"{expected.images_per_s:,.1f} images/s")
    machine.reset_peak_memory()
    with model.drawn_weights(setting):
        engine = made.open(model.options(setting))
    with closing(engine):
        stream = step.open_stream(setting, made, engine, [tokens])
        counted = stream.window(WINDOW_S if setting.is_real else TINY_WINDOW_S)
        done = counted.done
        row |= {
            "engine": engine.describe(),
            "images_per_s": counted.images_per_s,
            "mixed_ms": 1e3 * done.mixed_s / max(1, done.mixed_steps),
            "decode_ms": 1e3 * done.decode_s / max(1, done.decode_steps),
            "idle_s": done.idle_s,
            "startup_s": snapshot(engine.statistics).startup_s,
            "peak_memory": machine.peak_memory(),
        }
        should = None if expected is None else expected.images_per_s
        probe.findings.figure(name, counted.images_per_s, None, "images/s", should)
        for kind, ms in (("mixed", row["mixed_ms"]), ("decode", row["decode_ms"])):
            should = None if expected is None else sum(getattr(expected, f"{kind}_ms").values())
            probe.findings.figure(f"   a {kind} step", ms, None, "ms", should)
        row["kernels"] = by_name(stream.advance, PROFILED_STEPS, setting.device)[:NUM_KERNELS]
