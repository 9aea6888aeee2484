"""Made-up data where there is none: webdataset tars of photographs.

The pictures are smooth noise of several scales, strongest at the coarsest, as photographs have it: JPEG compresses them
about as well, and no two are alike. The same arguments give the same bytes.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from PIL import Image

OCTAVES = range(1, 8)
SAMPLES_PER_SHARD = 1000
QUALITY = 90
MEDIAN_LENGTH, SIGMA, SHORTEST, LONGEST = 44, 0.55, 16, 128
"""Of captions, in tokens."""


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """An RGB picture of that size in pixels."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for octave in OCTAVES:
        cells = Image.fromarray(rng.integers(0, 256, (2**octave, 2**octave, 3), dtype=np.uint8))
        total += np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC), np.float32) * 2.0 ** (
            -0.7 * octave
        )
    low, high = total.min(), total.max()
    return Image.fromarray(((total - low) * (255 / (high - low))).astype(np.uint8))


def jpeg(width: int, height: int, seed: int) -> bytes:
    """The same as the bytes of a JPEG file."""
    out = io.BytesIO()
    photograph(width, height, seed).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def caption_lengths(
    rng: np.random.Generator, count: int, *, shortest: int = SHORTEST, longest: int = LONGEST
) -> NDArray[np.int64]:
    """Log-normal, as captions are: int64 [count] numbers of tokens with median 44 and sigma 0.55, clipped."""
    drawn = rng.lognormal(np.log(MEDIAN_LENGTH), SIGMA, count)
    return np.clip(np.rint(drawn), shortest, longest).astype(np.int64)


def first_lengths(lengths: Sequence[int], num_slots: int, prefill_images: int) -> list[int]:
    """Tokens of the first captions of an engine that is to be as if it had run for long once these have begun.

    What is then left of them is even: any token of a caption of `lengths` may be next. `prefill_images` of them begin
    in a step, those with the least left first, and make tokens until all have begun. There is one for each slot, or
    fewer where captions are so short that no more slots than that are ever taken.
    """
    count = min(num_slots, int(prefill_images * (fmean(lengths) + 1)))
    left = np.sort(np.concatenate([np.arange(1, length + 1) for length in lengths]))
    even = left[(2 * np.arange(count) + 1) * len(left) // (2 * count)]
    begun = np.arange(count)[::-1] // prefill_images
    found: list[int] = np.minimum(even + begun, max(lengths)).tolist()
    return found


def write_tars(
    folder: Path, num_images: int, sizes: Sequence[tuple[int, int]], *, per_shard: int = SAMPLES_PER_SHARD
) -> list[Path]:
    """Writes `num_images` in img2dataset's layout, widths and heights taken from `sizes` in turn; returns the tars.

    Keys count on over all shards, from 000000000.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with ThreadPoolExecutor() as threads:
        for shard, first in enumerate(range(0, num_images, per_shard)):
            numbers = range(first, min(first + per_shard, num_images))
            shapes = [sizes[number % len(sizes)] for number in numbers]
            widths, heights = zip(*shapes, strict=True)
            images = threads.map(jpeg, widths, heights, numbers)
            paths.append(folder / f"{shard:05d}.tar")
            with tarfile.open(paths[-1], "w", format=tarfile.USTAR_FORMAT) as tar:
                for number, shape, image in zip(numbers, shapes, images, strict=True):
                    _add_sample(tar, number, *shape, image)
    return paths


def _add_sample(tar: tarfile.TarFile, number: int, width: int, height: int, image: bytes) -> None:
    key, caption = f"{number:09d}", f"a photograph, no. {number}"
    fields = {
        "url": f"https://images.example/{key}.jpg",
        "caption": caption,
        "key": key,
        "status": "success",
        "width": width,
        "height": height,
        "sha256": hashlib.sha256(image).hexdigest(),
    }
    for suffix, content in (("jpg", image), ("json", json.dumps(fields).encode()), ("txt", caption.encode())):
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
