"""A whole run, JPEG tars to Parquet, beside the same engine fed from memory: everything else must cost next to nothing.

Both begin with empty slots and end with empty slots, over the same number of images of the same lengths.
"""

import dataclasses
import shutil
import time
from contextlib import closing
from pathlib import Path

from inputs.workload import write_images
from recap_fast.errors import ExitCode
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.prepared import PreparedEngine, generate_all
from recap_fast.launch.config import RunConfig
from recap_fast.launch.execute import execute
from recap_fast.launch.plan import plan
from recap_fast.launch.reporter import Reporter
from recap_fast.launch.result import RunResult
from suite import model, step
from suite.loader import photographs
from suite.setting import Findings, Setting

NUM_IMAGES, TINY_IMAGES, DISTINCT, PER_TAR = 1024, 12, 256, 256
NUM_TOKENS, TINY_TOKENS = 65, 6
WARM_UP = 8
BAR = 97
"""Percent of the engine's own rate."""


def run(setting: Setting) -> Findings:
    """The fastest precision of the card."""
    found, made = setting.find("end_to_end"), model.make(setting, model.best_precision(setting))
    count, tokens = (NUM_IMAGES, NUM_TOKENS) if setting.is_real else (TINY_IMAGES, TINY_TOKENS)
    options = model.options(setting, max_new_tokens=tokens)
    images = photographs((512, 384), min(DISTINCT, count))  # fewer than samples: all the same to what is timed
    tars = write_images(setting.work / "tars", images, count, PER_TAR)
    should = step.expectation(setting, made, tokens)
    if should is not None:
        found.add("engine alone: expected", f"{should.images_per_s:,.1f} images/s")
    with model.drawn_weights(setting):
        alone = _rate_alone(made, options, [tokens] * count)
        found.add(f"engine alone, {step.variant(made.spec)}, {tokens} tokens", f"{alone:,.1f} images/s")
        result, decoder = _run(setting, made, options, tars)
    done, statistics = result.snapshot, result.statistics
    found.add(f"tars to Parquet, {decoder}", f"{done.images_per_s:,.1f} images/s")
    bar = BAR if setting.is_real else None
    found.figure("   share of the engine alone", 100 * done.images_per_s / alone, bar, "%")
    idle = ", ".join(f"{reason} {seconds:.2f} s" for reason, seconds in statistics.idle_s.items())
    found.add("   device idle", f"{idle} of {done.seconds:.1f} s")
    found.details = {"alone": alone, "run": dataclasses.asdict(done), "engine": dataclasses.asdict(statistics)}
    return found


def _rate_alone(made: PreparedEngine, options: EngineOptions, lengths: list[int]) -> float:
    """Images a second of the engine, fed from memory, after a warm-up of a few images."""
    requests = model.make_requests(made, lengths, model.random_pixels(made, min(DISTINCT, len(lengths))))
    with closing(made.open(options)) as engine:
        list(generate_all(engine, requests[:WARM_UP]))
        start = time.perf_counter()
        list(generate_all(engine, requests))
        return len(lengths) / (time.perf_counter() - start)


def _run(setting: Setting, made: PreparedEngine, options: EngineOptions, tars: list[Path]) -> tuple[RunResult, str]:
    """A run's result, and the decoder that it chose."""
    output = setting.work / "captions"
    shards = tuple(map(str, tars))
    config = RunConfig(engine=made.folder, shards=shards, output=str(output), options=options, dedup=False)
    shutil.rmtree(output, ignore_errors=True)
    with closing(plan(config)) as planned:
        result = execute(planned, Reporter(None))
        decoder = planned.captioner.decoder.name
    if result.outcome != ExitCode.COMPLETE:
        raise SystemExit(f"the run ended with {result.outcome.name}")
    shutil.rmtree(output)
    return result, decoder
