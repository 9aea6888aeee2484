"""The engine alone at the real shape, fed without end: images a second, share of the roofline, and where time goes.

What matters most comes first: 65 tokens in all precisions, then longer captions, each in a new engine. The part's time
limit cuts off what matters least.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inputs.workload import varied_lengths
from recap_fast import machine
from recap_fast.bench.roofline import Roofline, difference, snapshot
from recap_fast.generate.device import resolve_device
from recap_fast.generate.engine import Engine
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.spec import EngineSpec
from suite import arithmetic, kernels, model
from suite.setting import Findings, Setting
from suite.stream import Stream

WINDOW_S, TINY_WINDOW_S = 6.0, 0.3
ENOUGH_S = 25.0
"""No measurement begins when less is left: an engine is opened, filled, and its slots turn over."""
NUM_PICTURES = 32
PROFILED_STEPS, PROFILE_LINES, SHORTEST_MS = 8, 12, 0.05
BARS = {
    "H200": {("bfloat16", "65"): 60, ("bfloat16", "128"): 50, ("fp8", "65"): 95, ("fp8", "128"): 80},
    "H100": {("bfloat16", "65"): 55, ("bfloat16", "128"): 45, ("fp8", "65"): 84, ("fp8", "128"): 68},
}
"""Images a second that a card has to reach with the recipe, by precision and tokens."""
SHARES = {"bfloat16": 80, "fp8": 75}
"""Percent of the serial roofline, on those cards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An engine to measure, and what it is fed with."""

    made: PreparedEngine
    name: str
    """The row's, and that of its details."""
    lengths: Sequence[int]
    """Tokens of the captions, in turn."""
    captions: int = 1
    """Of an image."""
    bar: float | None = None
    """Images a second."""
    share: float | None = None
    """Percent of the roofline, as a bar."""
    is_profiled: bool = False


def run(setting: Setting) -> Findings:
    """Measures the recipes in 8 bits and in bfloat16, and at 65 tokens FP8 with a bfloat16 cache as well."""
    found, best = setting.find("step"), model.best_precision(setting)
    recipes = ((best, None), ("bfloat16", None))
    for tokens, lengths in _lengths(setting).items():
        others = (("fp8", "auto"),) if (best, tokens) == ("fp8", "65") else ()
        for precision, kv_precision in (*recipes, *others):
            made = model.make(setting, precision, kv_precision)
            name, bar = f"{variant(made.spec)}, {tokens} tokens", _bar(setting, made, tokens)
            share = SHARES.get(precision) if bar else None
            measure(
                found,
                setting,
                Case(made=made, name=name, lengths=lengths, bar=bar, share=share, is_profiled=tokens == "65"),
            )
    return found


def variant(spec: EngineSpec) -> str:
    """The precision of an engine, and that of its cache where it is another."""
    return spec.precision + (", FP8 cache" if spec.kv_precision == "fp8" else "")


def expectation(setting: Setting, made: PreparedEngine, tokens: float, captions: int = 1) -> arithmetic.Expected | None:
    """What the engine should do on this card; None where that is not known, or the model is not the real one."""
    card = setting.card
    if card is None or made.spec.precision not in card.products:
        return None
    limits = dataclasses.replace(made.spec.limits, **dataclasses.asdict(model.sizes(setting, made)))
    spec = dataclasses.replace(made.spec, limits=limits)
    return arithmetic.expect(spec, card, len(made.prompts.prefix_ids), tokens, captions)


def open_stream(
    setting: Setting, made: PreparedEngine, engine: Engine, lengths: Sequence[int], captions: int = 1
) -> Stream:
    """Captions of these lengths for an open engine, so many an image, of noise."""
    pixels, text_ids = model.random_pixels(made, NUM_PICTURES), made.prompts.text_ids({})[0]
    return Stream(engine, lengths, model.sizes(setting, made).prefill_images, pixels, text_ids, captions)


def measure(found: Findings, setting: Setting, case: Case) -> float | None:
    """Images a second of a full engine; None where there was no time for it, or it failed."""
    if setting.seconds_left < ENOUGH_S:
        found.add(case.name, "no time left", "", False)
        return None
    with found.trying(case.name):
        return _measure(found, setting, case)
    return None


def _bar(setting: Setting, made: PreparedEngine, tokens: str) -> float | None:
    """Images a second that this card has to reach; None where it has no bars, or the cache is not the recipe's."""
    bars = {} if setting.card is None else BARS.get(setting.card.name, {})
    has_bar = made.spec.kv_precision == model.make(setting, made.spec.precision).spec.kv_precision
    return bars.get((made.spec.precision, tokens)) if has_bar else None


def _measure(found: Findings, setting: Setting, case: Case) -> float:
    made, name = case.made, case.name
    expected = expectation(setting, made, statistics.mean(case.lengths), case.captions)
    details: dict[str, Any] = {"expected": None if expected is None else dataclasses.asdict(expected)}
    found.details[name] = details
    if expected is not None:
        found.add(f"{name}: expected", f"{expected.images_per_s:,.1f} images/s")
    device = resolve_device(setting.device)
    roofline = Roofline(made.spec, device, len(made.prompts.prefix_ids))
    machine.reset_peak_memory()
    with model.drawn_weights(setting):
        engine = made.open(model.options(setting, captions_per_image=case.captions))
    details |= {"engine": engine.describe(), "rates": dataclasses.asdict(roofline.rates)}
    stream = open_stream(setting, made, engine, case.lengths, case.captions)
    try:
        counted = stream.window(WINDOW_S if setting.is_real else TINY_WINDOW_S)
        figures = roofline.figures(counted.done, counted.seconds)
        details |= {**dataclasses.asdict(counted), "figures": dataclasses.asdict(figures)}
        should = None if expected is None else expected.images_per_s
        found.figure(name, counted.images_per_s, case.bar, "images/s", should)
        found.figure("   share of the roofline", 100 * figures.share, case.share, "%")
        if case.is_profiled:
            _profile(found, stream, setting, details, expected)
        startup = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in engine.statistics.startup_s.items())
        found.add("   start-up", startup)
        details["peak_memory"] = machine.peak_memory()
    finally:
        engine.close()
    found.add("   peak memory", " + ".join(f"{v / 1e9:.1f} GB {k}" for k, v in details["peak_memory"].items()))
    return counted.images_per_s


def _profile(
    found: Findings, stream: "Stream", setting: Setting, details: dict[str, Any], expected: arithmetic.Expected | None
) -> None:
    """Adds milliseconds a step by kind of kernel. It comes after all that is timed, since the profiler may fail."""
    with found.trying("profile"):
        before = snapshot(stream.engine.statistics)
        spent = details["profile"] = kernels.milliseconds(stream.advance, PROFILED_STEPS, setting.device)
        done = difference(before, stream.engine.statistics)
        should = {} if expected is None else expected.mean_ms(done.mixed_steps, done.decode_steps)
        longest = {kind: ms for kind, ms in spent.items() if ms > SHORTEST_MS}
        for kind, ms in itertools.islice(longest.items(), PROFILE_LINES):
            found.figure(f"   {kind}", ms, None, "ms a step", should.get(kind))


def _lengths(setting: Setting) -> dict[str, Sequence[int]]:
    """Tokens of the captions in turn; for 'tiny' the same kinds, shorter."""
    varied = varied_lengths(1000)
    if setting.is_real:
        return {"65": [65], "128": [128], f"varied, mean {statistics.mean(varied):.0f}": varied}
    return {"65": [6], "128": [9], "varied": [max(1, length // 10) for length in varied]}
