"""The pipeline with fake stages over real shards and a real ledger, and what must come out of it."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support import shard_files
from support.engines import FakeEngine
from support.ledgers import open_ledger
from support.runs import BAD, read_rows

from recap_fast.generate.engine import Engine
from recap_fast.pipeline.counters import RunCounters
from recap_fast.pipeline.pipeline import Pipeline
from recap_fast.records import ImageBatch, ImageOutcome, Request, ShardReport
from recap_fast.shards.reader import open_shard


class FakeDecoder:
    """Pixels that follow from the bytes; `BAD` is not an image."""

    name, note, num_fallbacks = "fake", None, 0

    def decode(self, images: Sequence[bytes], *, only_pillow: bool = False) -> ImageBatch:
        pixels = np.zeros((len(images), 3, 2, 2), np.uint8)
        outcomes = []
        for i, image in enumerate(images):
            if image == BAD:
                outcomes.append(ImageOutcome(status="not_an_image", error="It is not an image."))
                continue
            pixels[i] = np.frombuffer(hashlib.sha256(image).digest(), np.uint8)[:12].reshape(3, 2, 2)
            outcomes.append(ImageOutcome(2, 2))
        return ImageBatch(pixels, tuple(outcomes))

    def close(self) -> None:
        """Nothing to free."""


class FakeCaptioner:
    """The parts that a pipeline wants of a captioner, with constant prompts of these names, or a single one."""

    def __init__(self, engine: Engine, names: Sequence[str] = ()):
        self.engine, self.decoder, self._names = engine, FakeDecoder(), names
        self.prepared = SimpleNamespace(prompts=SimpleNamespace(fields=(), captions_per_image=len(names) or 1))
        self._numbers = itertools.count()

    def requests(self, row, pixels, fields, *, noise_key=0) -> list[Request]:
        row.prompts = tuple((name, f"Is it {name}?") for name in self._names)
        ids = [next(self._numbers) for _ in self._names or ("",)]
        text = np.array([1, 2], np.int32)
        return [Request(id_, pixels, text, 9, noise_key, ids[0] if id_ > ids[0] else None) for id_ in ids]

    def detokenize(self, rows: Sequence[NDArray[np.int32]]) -> list[str]:
        return detokenize(rows)


def detokenize(rows: Sequence[NDArray[np.int32]]) -> list[str]:
    """Ids as code points."""
    return ["".join(map(chr, row.tolist())) for row in rows]


def caption_of(image: bytes) -> str:
    """What the fake stages make of an image."""
    pixels = FakeDecoder().decode([image]).pixels[0]
    return detokenize([pixels.ravel()[:3].astype(np.int32) % 26 + 97])[0]


class FakeRun:
    """A pipeline of fake stages over real shards and a real output folder."""

    def __init__(
        self,
        inputs: Path,
        output: Path,
        engine: Engine | None = None,
        *,
        window: int = 64,
        window_bytes: int = 1 << 30,
        limit: int | None = None,
        retry: tuple[str, ...] = (),
        dedup: bool = False,
    ):
        self.engine: Any = engine or FakeEngine()
        self.ledger = open_ledger(output, f"{inputs}/*.tar", retry=retry)
        self.pending = [p.shard for p in self.ledger.pending()]
        self.counters = RunCounters(len(self.pending))
        self.captioner: Any = FakeCaptioner(self.engine)
        self.open_shard = lambda shard, should_stop: open_shard(shard, None, should_stop)
        self.options: Any = {"window": window, "window_bytes": window_bytes, "limit": limit, "dedup": dedup}

    def pipeline(self) -> Pipeline:
        return Pipeline(self.open_shard, self.captioner, self.ledger, self.counters, **self.options)

    def run(self) -> list[ShardReport]:
        """The reports by shard: which shard ends first is up to the threads."""
        return sorted(self.pipeline().run(self.pending), key=lambda report: report.shard)


def write_shards(folder: Path, sizes: list[int], bad: tuple[int, ...] = ()) -> Path:
    """Tars of these numbers of samples."""
    for number, size in enumerate(sizes):
        members = shard_files.webdataset_members(size, first=1000 * number)
        for i in bad:
            if i < size:
                members[3 * i] = (members[3 * i][0], BAD)
        shard_files.write_tar(folder / f"{number:05d}.tar", members)
    return folder


def expected_captions(folder: Path, sizes: list[int], bad: tuple[int, ...] = ()) -> list[tuple[str, int, str | None]]:
    rows = []
    for number, size in enumerate(sizes):
        images = [
            content for name, content in shard_files.webdataset_members(size, 1000 * number) if name.endswith("jpg")
        ]
        rows += [(f"{number:05d}", i, None if i in bad else caption_of(images[i])) for i in range(size)]
    return rows


def image(number: int) -> bytes:
    """An image by its number; those below 0 are none."""
    return BAD if number < 0 else f"image {number}".encode() * 20


def write_copies(folder: Path, *shards: list[int]) -> Path:
    """Tars of samples with the images of these numbers; each sample says that its hash is another one."""
    for shard, numbers in enumerate(shards):
        members = shard_files.webdataset_members(len(numbers), first=1000 * shard)
        for index, number in enumerate(numbers):
            members[3 * index] = (members[3 * index][0], image(number))
        shard_files.write_tar(folder / f"{shard:05d}.tar", members)
    return folder


def expected_copies(*shards: list[int]) -> list[tuple[str, int, str | None]]:
    """What `captions` are then."""
    return [
        (f"{shard:05d}", index, None if number < 0 else caption_of(image(number)))
        for shard, numbers in enumerate(shards)
        for index, number in enumerate(numbers)
    ]


def captions(output: Path) -> list[tuple[str, int, str | None]]:
    return [(row["shard"], row["index"], row["re_caption"]) for row in read_rows(output)]


def break_off(*_, **__):
    raise RuntimeError("broken on purpose")
