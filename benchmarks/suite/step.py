"""The engine alone at the real shape, fed without end: images a second, share of the roofline, and where time goes.

A window in the middle is measured, so that neither the filling of the slots nor their emptying counts: a run over a
million images has none of either to speak of.
"""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inputs.workload import varied_lengths
from recap_fast import machine
from recap_fast.bench.roofline import Roofline, difference, snapshot
from recap_fast.generate.device import resolve_device
from recap_fast.generate.engine import Engine
from recap_fast.records import Request
from suite import model
from suite.kernels import table
from suite.setting import Findings, Setting

WINDOW_S, TINY_WINDOW_S = 6.0, 0.3
NUM_PICTURES = 256
PROFILED_STEPS, PROFILE_LINES = 8, 12
BARS_CARD = "H200"
BARS = {("bfloat16", "65"): 60, ("bfloat16", "128"): 50, ("fp8", "65"): 95, ("fp8", "128"): 80}
"""Images a second that this card has to reach, by precision and tokens."""
SHARES = {"bfloat16": 80, "fp8": 75}
"""Percent of the serial roofline."""


def run(setting: Setting) -> Findings:
    """bfloat16 and 8 bits; keys and values in FP8 as well where the weights are."""
    found, best = setting.find("step"), model.best_precision(setting)
    for precision in ("bfloat16", best):
        for kv_precision in ("auto", "fp8") if precision == "fp8" else ("auto",):
            name = precision + (", FP8 cache" if kv_precision == "fp8" else "")
            with found.trying(name):
                _measure(found, setting, name, precision, kv_precision)
    return found


def _measure(found: Findings, setting: Setting, name: str, precision: str, kv_precision: str) -> None:
    made = model.make(setting, precision).with_spec(kv_precision=kv_precision)
    roofline = Roofline(made.spec, resolve_device(setting.device), len(made.prompts.prefix_ids))
    machine.reset_peak_memory()
    engine = made.open(model.options(setting))
    pixels = model.random_pixels(made, NUM_PICTURES if setting.is_real else 4)
    stream = Stream(engine, pixels, made.prompts.text_ids({})[0])
    has_bars = setting.is_real and BARS_CARD in engine.describe()
    details: dict[str, Any] = {"engine": engine.describe(), "rates": dataclasses.asdict(roofline.rates)}
    found.details[name] = details
    try:
        kinds = _lengths(setting)
        if kv_precision == "fp8":  # two lengths say what it is worth
            kinds = dict(itertools.islice(kinds.items(), 2))
        for tokens, lengths in kinds.items():
            counted = stream.window(lengths, WINDOW_S if setting.is_real else TINY_WINDOW_S)
            figures = roofline.figures(counted.done, counted.seconds)
            details[tokens] = {**dataclasses.asdict(counted), "figures": dataclasses.asdict(figures)}
            bar, share = (BARS.get((precision, tokens)), SHARES.get(precision)) if has_bars else (None, None)
            found.at_least(f"{name}, {tokens} tokens", counted.images_per_s, bar, "images/s")
            found.at_least("   share of the roofline", 100 * figures.share, share, "%")
        profile = details["profile"] = table(stream.advance, PROFILED_STEPS, setting.device)
        for kind, share in itertools.islice(profile.items(), PROFILE_LINES):
            found.add(f"   {kind}", f"{share:.1%} of device time")
        startup = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in engine.statistics.startup_s.items())
        found.add("   start-up", startup)
        details["peak_memory"] = machine.peak_memory()
    finally:
        engine.close()
    found.add("   peak memory", " + ".join(f"{v / 1e9:.1f} GB {k}" for k, v in details["peak_memory"].items()))


def _lengths(setting: Setting) -> dict[str, Sequence[int]]:
    """Tokens of the captions in turn; for 'tiny' the same kinds, shorter."""
    varied = varied_lengths(1000)
    if setting.is_real:
        return {"65": [65], "128": [128], f"varied, mean {statistics.mean(varied):.0f}": varied}
    return {"65": [6], "128": [9], "varied": [max(1, length // 10) for length in varied]}


@dataclasses.dataclass(frozen=True)
class Counted:
    """What an engine did in a window of time."""

    images: int
    tokens: int
    seconds: float
    done: Any
    """Its `Statistics` in that window."""

    @property
    def images_per_s(self) -> float:
        """Captions that ended, a second."""
        return self.images / self.seconds


class Stream:
    """Keeps an engine full."""

    def __init__(self, engine: Engine, pixels: NDArray[np.uint8], text_ids: NDArray[np.int32]):
        self._engine, self._pixels, self._text = engine, pixels, text_ids
        self._numbers = itertools.count()
        self._num_slots = engine.free_slots
        self._lengths: Iterator[int] = iter(())
        self._first = self._longest = 0

    def advance(self) -> list[int]:
        """One step; how many tokens each caption has that ended and was asked for since the last change of lengths."""
        room = self._engine.free_slots
        if room:
            self._engine.submit([self._request() for _ in range(room)])
        return [done.num_tokens for done in self._engine.step() if done.id >= self._first]

    def window(self, lengths: Sequence[int], seconds: float) -> Counted:
        """Changes to these lengths, waits until captions of the kind end, and counts for so long or a little longer.

        It counts whole turnovers, as many captions as there are slots: those of one length join in a burst and end in
        a burst, and part of that would show too many prefills or too few.
        """
        self._lengths, self._first = itertools.cycle(lengths), next(self._numbers) + 1
        before, self._longest = self._longest, max(lengths)
        for _ in range(max(before, self._longest)):  # by then those of the old lengths are on their way out
            self.advance()
        while not self.advance():
            pass
        counted, start, ended = snapshot(self._engine.statistics), time.perf_counter(), []
        while True:
            done = self.advance()
            begun, ended = len(ended) // self._num_slots, ended + done
            now = time.perf_counter()
            if now - start >= seconds and len(ended) // self._num_slots > begun:
                return Counted(len(ended), sum(ended), now - start, difference(counted, self._engine.statistics))

    def _request(self) -> Request:
        number = next(self._numbers)
        return Request(number, self._pixels[number % len(self._pixels)], self._text, next(self._lengths))
