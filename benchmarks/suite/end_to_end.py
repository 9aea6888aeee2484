"""A whole run, JPEG tars to Parquet, beside the same engine fed from memory: everything else must cost next to nothing.

Both begin with empty slots and end with empty slots, over the same number of images of the same lengths.
"""

import io
import json
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

from recap_fast.bench.stages import caption_all
from recap_fast.decode.decoder import DEFAULT_MAX_IMAGE_PIXELS
from recap_fast.generate.backends import open_engine
from recap_fast.launch import execute as launch
from recap_fast.launch.config import RunConfig, default_decode_threads
from recap_fast.launch.reporter import Reporter
from suite import model
from suite.loader import photographs
from suite.setting import Found, Setting

NUM_IMAGES, TINY_IMAGES, DISTINCT, PER_TAR = 2048, 12, 256, 512
NUM_TOKENS, TINY_TOKENS = 65, 6
BAR = 97
"""Percent of the engine's own rate."""


def run(setting: Setting) -> Found:
    """The fastest precision of the card."""
    found, made = setting.find("end_to_end"), model.make(setting, model.best_precision(setting))
    count, tokens = (NUM_IMAGES, NUM_TOKENS) if setting.is_real else (TINY_IMAGES, TINY_TOKENS)
    options = model.options(setting, max_new_tokens=tokens)
    tars = _tars(setting.work / "tars", count)
    engine = open_engine(made.folder, made.spec, options, made.prefix_ids)
    requests = made.requests([tokens] * count, made.random_pixels(min(DISTINCT, count)))
    caption_all(engine, requests[: engine.free_slots])
    start = time.perf_counter()
    caption_all(engine, requests)
    alone = count / (time.perf_counter() - start)
    engine.close()
    summary = _run(setting, made, options, tars)
    rate = summary["captioned"] / summary["seconds"]
    found.add(f"engine alone, {made.spec.precision}, {tokens} tokens", f"{alone:,.1f} images/s")
    found.add(f"tars to Parquet, {summary['decoder']}", f"{rate:,.1f} images/s")
    found.at_least("   share of the engine alone", 100 * rate / alone, BAR if setting.is_real else None, "%")
    idle = ", ".join(f"{reason} {seconds:.2f} s" for reason, seconds in summary["engine"]["idle_s"].items())
    found.add("   device idle", f"{idle} of {summary['seconds']:.1f} s")
    found.details = {"alone": alone, "summary": summary}
    return found


def _run(setting: Setting, made: model.Model, options: Any, tars: list[Path]) -> dict[str, Any]:
    """What `recap-fast run` says at its end."""
    stream, output = io.StringIO(), setting.work / "captions"
    config = RunConfig(
        engine=made.folder,
        shards=tuple(map(str, tars)),
        output=output,
        options=options,
        decoder="auto",
        decode_threads=default_decode_threads(),
        max_image_pixels=DEFAULT_MAX_IMAGE_PIXELS,
        overwrite=True,
    )
    code = launch.run(config, Reporter("json", stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    summaries = [event for event in events if event["event"] == "summary"]
    if code != launch.EXIT_OK or not summaries:
        raise SystemExit(f"the run ended with exit code {code}: {events[-1]['message']}")
    shutil.rmtree(output)
    return summaries[0]


def _tars(folder: Path, count: int) -> list[Path]:
    """So many samples of fewer different photographs, which is all the same to everything that is timed."""
    folder.mkdir(parents=True, exist_ok=True)
    images = photographs((512, 384), min(DISTINCT, count))
    paths = []
    for first in range(0, count, PER_TAR):
        paths.append(folder / f"{first // PER_TAR:05d}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for number in range(first, min(first + PER_TAR, count)):
                member, data = tarfile.TarInfo(f"{number:09d}.jpg"), images[number % len(images)]
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return paths
