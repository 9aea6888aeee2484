"""`recap-fast bench`: how fast each stage is alone, and all of them end to end. An engine in, figures out.

Everything is done once to warm up and then `repeat` times; the figures are of the median. What a stage reaches alone is
the most that it could feed, or take from, the others.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recap_fast import machine
from recap_fast.bench import synthetic
from recap_fast.bench.engine_stages import NOTHING_TO_CAPTION, make_end_to_end, make_generate
from recap_fast.bench.report import Measurement, Report
from recap_fast.bench.roofline import Roofline
from recap_fast.bench.stages import Images, Pass, make_decode, make_read, make_requests, make_write
from recap_fast.captioner.captioner import Captioner
from recap_fast.captioner.config import CaptionConfig
from recap_fast.errors import ConfigError
from recap_fast.launch.config import RunConfig
from recap_fast.shards.expand import expand

if TYPE_CHECKING:
    from recap_fast.progress import OnProgress

STAGES = ("read", "decode", "generate", "write", "end-to-end")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig(CaptionConfig):
    """`recap-fast bench`, as typed."""

    shards: tuple[str, ...] = ()
    """As `run` takes them; if empty, made-up photographs are used."""
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

    def run_config(self, output: Path) -> RunConfig:
        """A run with these images, each of which is captioned also where several are the same."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(CaptionConfig)}
        return RunConfig(
            **shared, shards=self.shards, output=str(output), limit=self.limit, dedup=False, max_error_rate=1.0
        )


def bench(config: BenchConfig, progress: "OnProgress" = lambda done, total: None) -> Report:
    """Measures the stages of `config`; `progress` is told how many passes are done.

    Raises what a run does for what cannot be used, and EngineError.
    """
    with tempfile.TemporaryDirectory(prefix="recap-bench-") as folder:
        if not config.shards:
            tars = synthetic.write_tars(Path(folder) / "shards", config.limit, [config.image_size])
            config = dataclasses.replace(config, shards=tuple(map(str, tars)))
        with closing(_Bench(config, Path(folder), progress)) as stages:
            found = [m for stage in STAGES if stage in config.stages for m in stages.measure(stage)]
            threads = config.decode_threads
            decoder = f"{stages.captioner.decoder.name}, {threads} thread{'s' if threads > 1 else ''}"
            rates = stages.roofline.rates if any(m.figures for m in found) else None
            return Report(stages.engine_text, decoder, dataclasses.asdict(config), tuple(found), rates)


class _Bench:
    """Measures stages with one captioner, whose engine each of them opens for itself."""

    def __init__(self, config: BenchConfig, folder: Path, progress: "OnProgress"):
        self._config, self._folder, self._progress = config, folder, progress
        each = 1 + config.repeat
        self._done, self._total = 0, each * (len(config.stages) + ("generate" in config.stages))
        self._images = Images(expand(config.shards).unregistered(), config.limit)
        self.captioner = Captioner(config)
        spec = self.captioner.prepared.spec
        self.engine_text = f"{spec.name}, {spec.precision}"

    def close(self) -> None:
        """Frees the decoder."""
        self.captioner.close()

    @functools.cached_property
    def roofline(self) -> Roofline:
        """What the engine is measured against; its rates are measured once, while no engine is open."""
        from recap_fast.generate.device import resolve_device

        prepared = self.captioner.prepared
        device = resolve_device(self._config.options.device)
        return Roofline(prepared.spec, device, prefix_tokens=len(prepared.prompts.prefix_ids))

    def measure(self, stage: str) -> list[Measurement]:
        """The measurements of a stage: `generate` has two, of captions as they come and of the longest ones."""
        if stage == "generate":
            return self._generate()
        return [self._repeat(stage, self._make(stage))]

    def _make(self, stage: str) -> Callable[[], Pass]:
        if stage == "read":
            return make_read(self._images)
        if stage == "decode":
            return make_decode(self._images, self.captioner)
        if stage == "write":
            return make_write(self._images, self.captioner, self._folder)
        return make_end_to_end(self._config.run_config(self._folder / "out"), self.roofline)

    def _generate(self) -> list[Measurement]:
        requests = list(make_requests(self._images, self.captioner))
        if not requests:
            raise ConfigError(NOTHING_TO_CAPTION)
        roofline, options, prepared = self.roofline, self.captioner.config.options, self.captioner.prepared
        longest = dataclasses.replace(options, loop_stop=False)
        measured = []
        for name, which, how in (
            ("generate", prepared, options),
            (f"generate, all {prepared.max_new_tokens(options)}", prepared.with_spec(stop_ids=()), longest),
        ):
            with closing(which.open(how)) as engine:
                self.engine_text = f"{which.spec.name}: {engine.describe()}"
                measured.append(self._repeat(name, make_generate(engine, requests, roofline)))
        return measured

    def _repeat(self, name: str, work: Callable[[], Pass]) -> Measurement:
        self._progress(self._done, self._total)
        self._pass(work)
        machine.reset_peak_memory()
        passes = [self._pass(work) for _ in range(self._config.repeat)]
        median = sorted(passes, key=lambda p: p.seconds)[len(passes) // 2]
        return Measurement(
            stage=name,
            images=median.images,
            captions=median.captions,
            tokens=median.tokens,
            seconds=tuple(round(p.seconds, 6) for p in passes),
            peak_memory=machine.peak_memory(),
            figures=median.figures,
            details=median.details,
        )

    def _pass(self, work: Callable[[], Pass]) -> Pass:
        done = work()
        self._done += 1
        self._progress(self._done, self._total)
        return done
