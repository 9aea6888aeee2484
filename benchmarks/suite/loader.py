"""Pictures alone: JPEGs in memory to pixels, by each decoder there is, beside what the engine takes; DALI's distance.

Photographs of 512 by 384, as DataComp's downloader leaves them, and of 1024 by 768.
"""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from recap_fast.bench.synthetic import jpeg
from recap_fast.decode.decoder import make_decoder
from recap_fast.errors import ConfigError
from recap_fast.pipeline.channel import DECODE_BATCH
from suite import model
from suite.setting import Findings, Setting

SIZES = ((512, 384), (1024, 768))
NUM_IMAGES, TINY_IMAGES = 256, 6
AT_LEAST_S, TINY_S = 3.0, 0.1
LEVELS, MEAN_LEVELS = 48, 1.0
"""By how much DALI's pixels of a photograph may differ from Pillow's, at most and on average: nvJPEG has an IDCT and an
upsampling of chroma of its own."""


def run(setting: Setting) -> Findings:
    """Rates of all decoders, and how far DALI's pixels are from Pillow's."""
    found, spec = setting.find("loader"), model.make(setting, "bfloat16").spec
    threads = len(os.sched_getaffinity(0))
    needed = 2 * fastest_engine(setting)
    device_id = None if setting.device == "cpu" else 0
    for size in SIZES:
        images = photographs(size, NUM_IMAGES if setting.is_real else TINY_IMAGES)
        pixels: dict[str, Any] = {}
        for name in ("pillow", "dali"):
            try:
                decoder = make_decoder(name, spec.preprocess, num_threads=threads, device_id=device_id)
            except ConfigError as error:
                found.add(f"{name}, {size[0]} x {size[1]}", "not there")
                found.details[name] = str(error)
                continue
            rate = _rate(decoder, images, AT_LEAST_S if setting.is_real else TINY_S)
            where = "on the GPU" if name == "dali" and device_id is not None else f"{threads} threads"
            bar = needed if setting.is_real and size == SIZES[0] and needed else None
            found.figure(f"{name}, {size[0]} x {size[1]}, {where}", rate, bar, "images/s")
            pixels[name] = np.stack([_on_host(p) for p in decoder.decode(images).pixels])
            found.details[f"{name}, {size}"] = rate
            decoder.close()
        if len(pixels) == 2:
            apart = np.abs(pixels["dali"].astype(np.int16) - pixels["pillow"].astype(np.int16))
            close = bool(apart.max() <= LEVELS and apart.mean() <= MEAN_LEVELS)
            bar = f"<= {LEVELS}, mean {MEAN_LEVELS}"
            found.add("   DALI's levels from Pillow's", f"{apart.max()}, mean {apart.mean():.2f}", bar, close)
    return found


def fastest_engine(setting: Setting) -> float:
    """The highest rate that the step part has measured, in images a second; 0 where it has not run."""
    windows = (details for details in setting.found_by("step").values() if "seconds" in details)
    return max((window["images"] / window["seconds"] for window in windows), default=0.0)


def photographs(size: tuple[int, int], count: int) -> list[bytes]:
    """JPEGs, made in as many processes as there are cores."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(partial(jpeg, *size), range(count), chunksize=8))


def _on_host(pixels: Any) -> np.ndarray:
    return pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy()


def _rate(decoder: Any, images: list[bytes], at_least_s: float) -> float:
    """Images a second over whole rounds, after one that is not counted."""
    batches = [images[first : first + DECODE_BATCH] for first in range(0, len(images), DECODE_BATCH)]

    def round_() -> None:
        for batch in batches:
            pixels = decoder.decode(batch).pixels
        _on_host(pixels[-1])  # waits for a device

    round_()
    rounds, start = 0, time.perf_counter()
    while time.perf_counter() - start < at_least_s:
        round_()
        rounds += 1
    return rounds * len(images) / (time.perf_counter() - start)
