"""`recap-fast bench`: how fast each stage is alone, and all of them end to end. An engine in, figures out.

Everything is done once to warm up and then `repeat` times; the figures are of the median. A stage alone gets its input
from memory and its output goes nowhere: what it then reaches is the most that it could feed, or take from, the others.
"""

import dataclasses
import functools
import io
import itertools
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from recap_fast import machine
from recap_fast.bench import synthetic
from recap_fast.bench.report import Measurement, Report
from recap_fast.bench.roofline import Figures, Roofline, difference, snapshot
from recap_fast.decode.decoder import DEFAULT_MAX_IMAGE_PIXELS
from recap_fast.errors import ConfigError, RecapError
from recap_fast.generate.engine import Engine, EngineOptions, Statistics, open_engine
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tokenizer import load_tokenizer
from recap_fast.launch import execute as launch
from recap_fast.launch.config import DEFAULT_MAX_FIELD_TOKENS, RunConfig
from recap_fast.launch.reporter import Reporter
from recap_fast.pipeline.pipeline import DECODE_BATCH
from recap_fast.records import OK, Completion, ImageOutcome, Request, Sample
from recap_fast.shards.expand import expand
from recap_fast.shards.reader import open_shard
from recap_fast.write.captions import Finished
from recap_fast.write.shard_writer import ShardWriter

STAGES = ("read", "decode", "generate", "write", "end-to-end")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """`recap-fast bench`, as typed."""

    engine: Path
    shards: tuple[str, ...] = ()
    """As `run` takes them; none: made-up photographs."""
    stages: tuple[str, ...] = STAGES
    limit: int = 256
    """Images to measure with; they are held in memory."""
    repeat: int = 3
    image_size: tuple[int, int] = (512, 384)
    """Width and height of the made-up photographs."""
    options: EngineOptions = field(default_factory=EngineOptions)
    decoder: str = "auto"
    decode_threads: int = 1

    def __post_init__(self) -> None:
        for name in ("limit", "repeat"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)}: give a count of at least 1.")
        if min(self.image_size) < 16:
            raise ConfigError(f"--image-size {'x'.join(map(str, self.image_size))}: give at least 16x16.")
        if unknown := sorted(set(self.stages) - set(STAGES)):
            raise ConfigError(f"--stage {unknown[0]}: there are {', '.join(STAGES)}.")


def bench(config: BenchConfig) -> Report:
    """Measures the stages of `config`. Raises what a run does for what cannot be used, and EngineError."""
    spec = EngineSpec.load(config.engine)
    with tempfile.TemporaryDirectory(prefix="recap-bench-") as folder:
        shards = config.shards
        if not shards:
            tars = synthetic.write_tars(Path(folder) / "shards", config.limit, [config.image_size])
            shards = tuple(map(str, tars))
        with _Bench(dataclasses.replace(config, shards=shards), spec, Path(folder)) as stages:
            found = [m for stage in STAGES if stage in config.stages for m in stages.measure(stage)]
            threads = config.decode_threads
            decoder = f"{stages.decoder.name}, {threads} thread{'s' if threads > 1 else ''}"
            rates = stages.roofline.rates if any(m.figures for m in found) else None
            return Report(stages.engine_text, decoder, dataclasses.asdict(config), tuple(found), rates)


def caption_all(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """Runs requests through an engine that is kept full; completions in the order in which they end."""
    waiting, done = deque(requests), list[Completion]()
    while len(done) < len(requests):
        if room := min(engine.free_slots, len(waiting)):
            engine.submit([waiting.popleft() for _ in range(room)])
        done += engine.step()
    return done


@dataclass(frozen=True, slots=True)
class _Pass:
    """A stage has gone once over its input."""

    images: int
    seconds: float
    tokens: int = 0
    figures: Figures | None = None
    details: dict[str, Any] = field(default_factory=dict)


class _Bench:
    def __init__(self, config: BenchConfig, spec: EngineSpec, folder: Path):
        self._config, self._spec, self._folder = config, spec, folder
        self._run = RunConfig(
            engine=config.engine,
            shards=config.shards,
            output=folder / "out",
            options=config.options,
            decoder=config.decoder,
            decode_threads=config.decode_threads,
            max_image_pixels=DEFAULT_MAX_IMAGE_PIXELS,
            limit=config.limit,
            overwrite=True,
            max_error_rate=1.0,
        )
        self._shards = expand(config.shards).shards
        self._tokenizer = load_tokenizer(config.engine)
        limits = spec.limits
        self._prompts = PromptEncoder(self._tokenizer, spec.prompt, DEFAULT_MAX_FIELD_TOKENS, limits.max_text_tokens)
        self._max_new_tokens = config.options.max_new_tokens or limits.max_new_tokens
        self.engine_text = f"{spec.name}, {spec.precision}"
        self.decoder = launch.open_decoder(self._run, spec.preprocess)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.decoder.close()

    @functools.cached_property
    def roofline(self) -> Roofline:
        """What the engine is measured against; its rates are taken once, while no engine is open."""
        from recap_fast.generate.torch_backend.loading import resolve_device

        device = resolve_device(self._config.options.device)
        return Roofline(self._spec, device, prefix_tokens=len(self._prompts.prefix_ids))

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
                self.decoder.decode(images[first : first + DECODE_BATCH])
            return _Pass(len(images), time.perf_counter() - start)

        return decode

    def _measure_generate(self) -> list[Measurement]:
        requests = list(self._requests())
        if not requests:
            raise ConfigError("None of the images can be decoded: there is nothing to generate captions for.")
        endless = dataclasses.replace(self._spec, stop_ids=())
        longest = dataclasses.replace(self._config.options, loop_stop=False)
        natural = self._generate("generate", self._spec, self._config.options, requests)
        return [natural, self._generate(f"generate, all {self._max_new_tokens}", endless, longest, requests)]

    def _generate(self, name: str, spec: EngineSpec, options: EngineOptions, requests: list[Request]) -> Measurement:
        roofline = self.roofline
        engine = open_engine(self._config.engine, spec, options, self._prompts.prefix_ids.tolist())

        def generate() -> _Pass:
            before, start = snapshot(engine.statistics), time.perf_counter()
            completions = caption_all(engine, requests)
            seconds = time.perf_counter() - start
            figures = roofline.figures(difference(before, engine.statistics), seconds)
            return _Pass(len(requests), seconds, sum(c.num_tokens for c in completions), figures)

        self.engine_text = f"{spec.name}: {engine.describe()}"
        try:
            return self._repeat(name, generate)
        finally:
            engine.close()

    def _requests(self) -> Iterator[Request]:
        samples, numbers = (s for s in self._first_samples() if s.status == OK), itertools.count()
        while batch := list(itertools.islice(samples, DECODE_BATCH)):
            decoded = self.decoder.decode([s.image for s in batch])
            for sample, pixels, outcome in zip(batch, decoded.pixels, decoded.outcomes, strict=True):
                if outcome.status == OK:
                    text_ids, _ = self._prompts.text_ids({name: getattr(sample, name) for name in self._prompts.fields})
                    yield Request(next(numbers), pixels, text_ids, self._max_new_tokens)

    def _make_write(self) -> Callable[[], _Pass]:
        """Rows of one shard, with captions of random tokens of every length."""
        rng = np.random.default_rng(0)
        finished = []
        for index, sample in enumerate(self._first_samples()):
            length = int(rng.integers(1, self._max_new_tokens + 1))
            ids = rng.integers(0, self._tokenizer.vocab_size, length).astype(np.int32)
            row = dataclasses.replace(sample, index=index, image=b"", status=OK, error=None)
            finished.append(Finished(row, ImageOutcome(512, 384), Completion(index, ids, "stop", length)))
        tokens = sum(f.completion.num_tokens for f in finished if f.completion)

        def write() -> _Pass:
            with tempfile.TemporaryDirectory(dir=self._folder) as name:
                folder = Path(name)
                start = time.perf_counter()
                writer = ShardWriter(
                    folder / "rows.parquet", lambda a, b: folder / f"{a}-{b}.parquet", self._tokenizer.detokenize
                )
                for order, row in enumerate(finished):
                    writer.add(order, row)
                file = writer.finish()
                seconds = time.perf_counter() - start
                return _Pass(file.rows, seconds, tokens, details={"bytes": file.size_bytes})

        return write

    def _end_to_end(self) -> _Pass:
        """A real `run` into a folder of its own; timed by itself, from the first shard's opening to the last record."""
        roofline = self.roofline
        stream = io.StringIO()
        start = time.perf_counter()
        code = launch.run(self._run, Reporter("json", stream))
        wall = time.perf_counter() - start
        events = [json.loads(line) for line in stream.getvalue().splitlines()]
        summary = next((e for e in events if e["event"] == "summary"), None)
        if code != launch.EXIT_OK or summary is None or not summary["captioned"]:
            raise RecapError(f"The run ended with exit code {code}: {events[-1]['message']}")
        tokens = round(summary["tokens_per_caption"] * summary["captioned"])
        details = {name: summary[name] for name in ("busy", "limiting_stage", "failed")}
        details["startup_s"] = round(wall - summary["seconds"], 3)
        figures = roofline.figures(Statistics(**summary["engine"]), summary["seconds"])
        return _Pass(summary["captioned"], summary["seconds"], tokens, figures, details)
