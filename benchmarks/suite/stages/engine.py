"""The engine at the real shape, its weights drawn on the device: milliseconds of its steps, its kernels, its rate."""

from contextlib import closing
from typing import Any

from recap_fast import machine
from recap_fast.bench.roofline import snapshot
from suite import model
from suite.kernels import by_name
from suite.probe import Probe
from suite.step import Stream

VARIANTS = (("fp8", "fp8"), ("fp8", "auto"), ("bfloat16", "auto"))
"""Precision, and that of keys and values; what matters most first."""
TOKENS, TINY_TOKENS = 65, 6
WINDOW_S, TINY_WINDOW_S = 6.0, 0.1
PROFILED_STEPS, NUM_KERNELS = 4, 45


def engine(probe: Probe, found: dict[str, Any]) -> None:
    """Each variant, kept full."""
    setting, tokens = probe.setting, TOKENS if probe.setting.is_real else TINY_TOKENS
    for precision, kv_precision in VARIANTS:
        name = f"{precision}, {kv_precision} cache"
        with probe.trying(found, name):
            machine.reset_peak_memory()
            opened, pixels, text_ids = model.open_drawn(setting, precision, kv_precision)
            with closing(opened):
                stream = Stream(opened, pixels, text_ids)
                counted = stream.window([tokens], WINDOW_S if setting.is_real else TINY_WINDOW_S)
                done = counted.done
                row = found[name] = {
                    "engine": opened.describe(),
                    "images_per_s": counted.images_per_s,
                    "mixed_ms": 1e3 * done.mixed_s / max(1, done.mixed_steps),
                    "decode_ms": 1e3 * done.decode_s / max(1, done.decode_steps),
                    "idle_s": done.idle_s,
                    "startup_s": snapshot(opened.statistics).startup_s,
                    "peak_memory": machine.peak_memory(),
                }
                steps = f"mixed {row['mixed_ms']:.1f} ms, decode {row['decode_ms']:.1f} ms"
                probe.add(f"{name}: {steps}", f"{counted.images_per_s:,.1f} images/s")
                row["kernels"] = by_name(stream.advance, PROFILED_STEPS, setting.device)[:NUM_KERNELS]
