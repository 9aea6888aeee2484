"""What benchmarks caption: images in tars, how many tokens each caption is to have, and how far captions agree."""

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from recap_fast.bench import synthetic
from recap_fast.decode.decoder import make_decoder
from recap_fast.records import OK, Preprocess
from recap_fast.shards.expand import expand
from recap_fast.shards.reader import open_shard

FIXED_LENGTH, LONGEST = 64, synthetic.LONGEST
DECODE_BATCH = 32


def fixed_lengths(num_images: int) -> list[int]:
    """64 tokens for all."""
    return [FIXED_LENGTH] * num_images


def varied_lengths(num_images: int, seed: int = 0) -> list[int]:
    """Log-normal, as captions are: median 44 tokens, sigma 0.55, clipped to 16-128."""
    return synthetic.caption_lengths(np.random.default_rng(seed), num_images).tolist()


LENGTHS: dict[str, Callable[[int], list[int]]] = {"fixed": fixed_lengths, "varied": varied_lengths}
"""Tokens that each caption is to have, whatever tokens come, by the name of their distribution."""


def agreement(captions: Sequence[Sequence[int]], truth: Sequence[Sequence[int]]) -> dict[str, float]:
    """How far token ids are those of `truth`: the share of equal captions, the mean tokens before a difference."""
    equal, tokens = 0, 0
    for ids, expected in zip(captions, truth, strict=True):
        pairs = zip(ids, expected, strict=False)
        tokens += next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(expected)))
        equal += list(ids) == list(expected)
    return {"equal_captions": equal / len(truth), "mean_equal_tokens": tokens / len(truth)}


def write_images(folder: Path, images: Sequence[bytes], count: int, per_tar: int) -> list[Path]:
    """Tars of `count` samples, keys counting on from 000000000, over these images in turn; returns the tars."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for first in range(0, count, per_tar):
        paths.append(folder / f"{first // per_tar:05d}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for number in range(first, min(first + per_tar, count)):
                member, data = tarfile.TarInfo(f"{number:09d}.jpg"), images[number % len(images)]
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return paths


def read_images(shards: Sequence[str], count: int) -> list[bytes]:
    """The first images of shards, as `recap-fast run` takes them, that can be decoded; fewer where there are fewer."""
    decoder, samples = make_decoder("pillow", Preprocess(32, "crop", (0.5,) * 3, (0.5,) * 3)), _images(shards)
    found: list[bytes] = []
    while len(found) < count and (batch := list(islice(samples, DECODE_BATCH))):
        outcomes = decoder.decode(batch).outcomes
        found += [image for image, outcome in zip(batch, outcomes, strict=True) if outcome.status == OK]
    decoder.close()
    return found[:count]


def _images(shards: Sequence[str]) -> Iterator[bytes]:
    for shard in expand(list(shards)).unregistered():
        with open_shard(shard) as reader:
            yield from (sample.image for sample in reader.samples(np.empty(0, np.int64)) if sample.status == OK)
