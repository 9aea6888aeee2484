"""Reading, decoding and writing, each alone: its input comes from memory, its output goes nowhere.

A function that prepares the input returns the one that is timed: called, it works through all of it once.
"""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recap_fast.bench.roofline import Figures
from recap_fast.captioner.captioner import Captioner
from recap_fast.generate.prompt import SampleFields
from recap_fast.pipeline.channel import DECODE_BATCH
from recap_fast.pipeline.decoding import noise_key
from recap_fast.records import OK, Completion, Identity, ImageOutcome, Request, Row, Sample, Shard
from recap_fast.shards.reader import open_shard
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.shard_writer import ShardWriter


@dataclass(frozen=True, slots=True)
class Pass:
    """What a stage did that went once over its input."""

    images: int
    seconds: float
    captions: int = 0
    """Of these images; 0 for a stage that has none."""
    tokens: int = 0
    figures: Figures | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Images:
    """What is measured with: the first samples of some shards, read anew each time."""

    shards: Sequence[Shard]
    limit: int

    def __iter__(self) -> Iterator[Sample]:
        return itertools.islice(self._samples(), self.limit)

    def _samples(self) -> Iterator[Sample]:
        for shard in self.shards:
            with open_shard(shard) as reader:
                yield from reader.samples(np.empty(0, np.int64))


def make_read(images: Images) -> Callable[[], Pass]:
    """Shards to samples."""

    def read() -> Pass:
        start = time.perf_counter()
        sizes = [len(sample.image) for sample in images]
        return Pass(len(sizes), time.perf_counter() - start, details={"bytes": sum(sizes)})

    return read


def make_decode(images: Images, captioner: Captioner) -> Callable[[], Pass]:
    """Bytes to pixels."""
    encoded = [sample.image for sample in images if sample.status == OK]

    def decode() -> Pass:
        start = time.perf_counter()
        for first in range(0, len(encoded), DECODE_BATCH):
            captioner.decoder.decode(encoded[first : first + DECODE_BATCH])
        return Pass(len(encoded), time.perf_counter() - start)

    return decode


def make_requests(images: Images, captioner: Captioner) -> Iterator[Request]:
    """The requests of each image that can be decoded."""
    samples = (sample for sample in images if sample.status == OK)
    while batch := list(itertools.islice(samples, DECODE_BATCH)):
        decoded = captioner.decoder.decode([sample.image for sample in batch])
        for sample, pixels, outcome in zip(batch, decoded.pixels, decoded.outcomes, strict=True):
            if outcome.status == OK:
                row = Row(order=0, sample=sample)
                yield from captioner.requests(row, pixels, SampleFields(sample), noise_key=noise_key(sample))


def make_write(images: Images, captioner: Captioner, folder: Path) -> Callable[[], Pass]:
    """Token ids to one shard on disk, with captions of random tokens of every length, as many as an image gets."""
    rng, tokenizer = np.random.default_rng(0), captioner.prepared.tokenizer
    longest = captioner.prepared.max_new_tokens(captioner.config.options)
    no_pixels = np.empty((3, 0, 0), np.uint8)
    rows: list[Row] = []
    for index, sample in enumerate(images):
        kept = dataclasses.replace(sample, index=index, image=b"", status=OK, error=None)
        row = Row(order=index, sample=kept, outcome=ImageOutcome(512, 384))
        requests = captioner.requests(row, no_pixels, SampleFields(sample))
        texts = [rng.integers(0, tokenizer.vocab_size, rng.integers(1, longest + 1), np.int32) for _ in requests]
        row.complete([Completion(r.id, ids, "stop", len(ids)) for r, ids in zip(requests, texts, strict=True)])
        rows.append(row)
    captions = [completion for row in rows for completion in row.completions]
    tokens = sum(completion.num_tokens for completion in captions)

    def write() -> Pass:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            start = time.perf_counter()
            shard, version = Shard("rows", "", "tar"), Identity(0, "")
            writer = ShardWriter(OutputFolder.at(name), shard, version, tokenizer.detokenize)
            for row in rows:
                writer.add(row)
            report = writer.finish()
            seconds = time.perf_counter() - start
            size = None if report.output is None else report.output.size_bytes
            return Pass(report.rows, seconds, len(captions), tokens, details={"bytes": size})

    return write
