"""`recap-fast bench`: how fast each stage is alone, and all of them end to end. An engine in, figures out.

Everything is done once to warm up and then `repeat` times; the figures are of the median. A stage alone gets its input
from memory and its output goes nowhere: what it then reaches is the most that it could feed, or take from, the others.
"""

import dataclasses
import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from recap_fast import machine
from recap_fast.bench import synthetic
from recap_fast.bench.report import Measurement, Report
from recap_fast.bench.roofline import Figures, Roofline, difference, snapshot
from recap_fast.captioner.captioner import Captioner
from recap_fast.captioner.config import CaptionConfig
from recap_fast.errors import ConfigError, ExitCode, RecapError
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.prepared import PreparedEngine, generate_all
from recap_fast.generate.prompt import sample_fields
from recap_fast.launch.config import RunConfig
from recap_fast.launch.execute import run
from recap_fast.launch.reporter import Reporter
from recap_fast.pipeline.decoding import DECODE_BATCH
from recap_fast.records import OK, Completion, Identity, ImageOutcome, Request, Row, Sample, Shard
from recap_fast.shards.expand import expand
from recap_fast.shards.reader import open_shard
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.shard_writer import ShardWriter

STAGES = ("read", "decode", "generate", "write", "end-to-end")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig(CaptionConfig):
    """`recap-fast bench`, as typed."""

    shards: tuple[str, ...] = ()
    """As `run` takes them; none: made-up photographs."""
    stages: tuple[str, ...] = STAGES
    limit: int = 256
    """Images to measure with; they are held in memory."""
    repeat: int = 3
    image_size: tuple[int, int] = (512, 384)
    """Width and height of the made-up photographs."""

    def __post_init__(self) -> None:
        CaptionConfig.__post_init__(self)
        for name in ("limit", "repeat"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)}: give a count of at least 1.")
        if min(self.image_size) < 16:
            raise ConfigError(f"--image-size {'x'.join(map(str, self.image_size))}: give at least 16x16.")
        if unknown := sorted(set(self.stages) - set(STAGES)):
            raise ConfigError(f"--stage {unknown[0]}: there are {', '.join(STAGES)}.")


def bench(config: BenchConfig) -> Report:
    """Measures the stages of `config`. Raises what a run does for what cannot be used, and EngineError."""
    with tempfile.TemporaryDirectory(prefix="recap-bench-") as folder:
        shards = config.shards
        if not shards:
            tars = synthetic.write_tars(Path(folder) / "shards", config.limit, [config.image_size])
            shards = tuple(map(str, tars))
        with closing(_Bench(dataclasses.replace(config, shards=shards), Path(folder))) as stages:
            found = [m for stage in STAGES if stage in config.stages for m in stages.measure(stage)]
            threads = config.decode_threads
            decoder = f"{stages.captioner.decoder.name}, {threads} thread{'s' if threads > 1 else ''}"
            rates = stages.roofline.rates if any(m.figures for m in found) else None
            return Report(stages.engine_text, decoder, dataclasses.asdict(config), tuple(found), rates)


@dataclass(frozen=True, slots=True)
class _Pass:
    """A stage has gone once over its input."""

    images: int
    seconds: float
    tokens: int = 0
    figures: Figures | None = None
    details: dict[str, Any] = field(default_factory=dict)


class _Bench:
    """Measures stages with one captioner, whose engine each pass opens for itself."""

    def __init__(self, config: BenchConfig, folder: Path):
        self._config, self._folder = config, folder
        shared = {f.name: getattr(config, f.name) for f in fields(CaptionConfig)}
        self._run = RunConfig(
            **shared,
            shards=config.shards,
            output=folder / "out",
            limit=config.limit,
            overwrite=True,
            max_error_rate=1.0,
        )
        self._shards = expand(config.shards).shards
        self.captioner = Captioner(config)
        self._prepared = self.captioner.prepared
        self._max_new_tokens = self._prepared.max_new_tokens(config.options)
        self.engine_text = f"{self._prepared.spec.name}, {self._prepared.spec.precision}"

    def close(self) -> None:
        """Frees the decoder."""
        self.captioner.close()

    @functools.cached_property
    def roofline(self) -> Roofline:
        """What the engine is measured against; its rates are taken once, while no engine is open."""
        from recap_fast.generate.device import resolve_device

        device = resolve_device(self._config.options.device)
        return Roofline(self._prepared.spec, device, prefix_tokens=len(self._prepared.prompts.prefix_ids))

    def measure(self, stage: str) -> list[Measurement]:
        """What there is to say of a stage: of `generate` for captions as they come and for the longest ones."""
        if stage == "generate":
            return self._measure_generate()
        make = {"read": self._make_read, "decode": self._make_decode, "write": self._make_write}
        return [self._repeat(stage, make[stage]() if stage in make else self._end_to_end)]

    def _repeat(self, name: str, work: Callable[[], _Pass]) -> Measurement:
        work()
        machine.reset_peak_memory()
        passes = [work() for _ in range(self._config.repeat)]
        median = sorted(passes, key=lambda p: p.seconds)[len(passes) // 2]
        return Measurement(
            stage=name,
            images=median.images,
            tokens=median.tokens,
            seconds=tuple(round(p.seconds, 6) for p in passes),
            peak_memory=machine.peak_memory(),
            figures=median.figures,
            details=median.details,
        )

    def _samples(self) -> Iterator[Sample]:
        for shard in self._shards:
            with open_shard(shard) as reader:
                yield from reader.samples(np.empty(0, np.int64))

    def _first_samples(self) -> Iterator[Sample]:
        return itertools.islice(self._samples(), self._config.limit)

    def _make_read(self) -> Callable[[], _Pass]:
        def read() -> _Pass:
            start = time.perf_counter()
            sizes = [len(sample.image) for sample in self._first_samples()]
            return _Pass(len(sizes), time.perf_counter() - start, details={"bytes": sum(sizes)})

        return read

    def _make_decode(self) -> Callable[[], _Pass]:
        images = [sample.image for sample in self._first_samples() if sample.status == OK]

        def decode() -> _Pass:
            start = time.perf_counter()
            for first in range(0, len(images), DECODE_BATCH):
                self.captioner.decoder.decode(images[first : first + DECODE_BATCH])
            return _Pass(len(images), time.perf_counter() - start)

        return decode

    def _measure_generate(self) -> list[Measurement]:
        requests = list(self._requests())
        if not requests:
            raise ConfigError("None of the images can be decoded: there is nothing to generate captions for.")
        endless = self._prepared.with_spec(stop_ids=())
        longest = dataclasses.replace(self._config.options, loop_stop=False)
        natural = self._generate("generate", self._prepared, self._config.options, requests)
        return [natural, self._generate(f"generate, all {self._max_new_tokens}", endless, longest, requests)]

    def _generate(
        self, name: str, prepared: PreparedEngine, options: EngineOptions, requests: list[Request]
    ) -> Measurement:
        roofline = self.roofline
        engine = prepared.open(options)

        def generate() -> _Pass:
            before, start = snapshot(engine.statistics), time.perf_counter()
            tokens = sum(completion.num_tokens for completion in generate_all(engine, requests))
            seconds = time.perf_counter() - start
            figures = roofline.figures(difference(before, engine.statistics), seconds)
            return _Pass(len(requests), seconds, tokens, figures)

        self.engine_text = f"{prepared.spec.name}: {engine.describe()}"
        with closing(engine):
            return self._repeat(name, generate)

    def _requests(self) -> Iterator[Request]:
        samples = (s for s in self._first_samples() if s.status == OK)
        while batch := list(itertools.islice(samples, DECODE_BATCH)):
            decoded = self.captioner.decoder.decode([s.image for s in batch])
            for sample, pixels, outcome in zip(batch, decoded.pixels, decoded.outcomes, strict=True):
                if outcome.status == OK:
                    yield self.captioner.request(pixels, sample_fields(sample))[0]

    def _make_write(self) -> Callable[[], _Pass]:
        """Rows of one shard, with captions of random tokens of every length."""
        rng, tokenizer = np.random.default_rng(0), self._prepared.tokenizer
        rows, tokens = [], 0
        for index, sample in enumerate(self._first_samples()):
            length = int(rng.integers(1, self._max_new_tokens + 1))
            ids = rng.integers(0, tokenizer.vocab_size, length).astype(np.int32)
            kept = dataclasses.replace(sample, index=index, image=b"", status=OK, error=None)
            completion = Completion(index, ids, "stop", length)
            rows.append(Row(order=index, sample=kept, outcome=ImageOutcome(512, 384), completion=completion))
            tokens += length

        def write() -> _Pass:
            with tempfile.TemporaryDirectory(dir=self._folder) as name:
                start = time.perf_counter()
                shard, version = Shard("rows", "", "tar"), Identity(0, "")
                writer = ShardWriter(OutputFolder(Path(name)), shard, version, tokenizer.detokenize)
                for row in rows:
                    writer.add(row)
                report = writer.finish()
                seconds = time.perf_counter() - start
                return _Pass(
                    report.rows, seconds, tokens, details={"bytes": report.output and report.output.size_bytes}
                )

        return write

    def _end_to_end(self) -> _Pass:
        """A real `run` into a folder of its own; timed by itself, from the first shard's opening to the last record."""
        roofline = self.roofline
        start = time.perf_counter()
        result = run(self._run, Reporter(None))
        wall, s = time.perf_counter() - start, result.snapshot
        if result.outcome != ExitCode.COMPLETE or not s.captioned:
            problems = "; ".join(report.error for report in result.reports if report.error)
            raise RecapError(f"The run ended with exit code {result.outcome}, {s.captioned} captions. {problems}")
        details: dict[str, Any] = {"busy": s.busy, "limiting_stage": s.limiting_stage, "failed": s.failed}
        details["startup_s"] = round(wall - s.seconds, 3)
        return _Pass(s.captioned, s.seconds, s.num_tokens, roofline.figures(result.statistics, s.seconds), details)
