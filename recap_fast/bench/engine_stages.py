"""The stages that an engine takes part in: generating alone, from pixels in memory, and a whole run end to end."""

import shutil
import time
from collections.abc import Callable

from recap_fast.bench.roofline import Roofline, difference, snapshot
from recap_fast.bench.stages import Pass
from recap_fast.errors import ConfigError, ExitCode, RecapError
from recap_fast.generate.engine import Engine
from recap_fast.generate.prepared import generate_all
from recap_fast.launch.config import RunConfig
from recap_fast.launch.execute import run
from recap_fast.launch.reporter import Reporter
from recap_fast.records import Request

NOTHING_TO_CAPTION = "None of the images can be decoded: there is nothing to generate captions for."


def make_generate(engine: Engine, requests: list[Request], roofline: Roofline) -> Callable[[], Pass]:
    """Pixels to token ids."""

    def generate() -> Pass:
        before, start = snapshot(engine.statistics), time.perf_counter()
        tokens = sum(completion.num_tokens for completion in generate_all(engine, requests))
        seconds = time.perf_counter() - start
        figures = roofline.figures(difference(before, engine.statistics), seconds)
        num_images = sum(request.same_image_as is None for request in requests)
        return Pass(num_images, seconds, len(requests), tokens, figures)

    return generate


def make_end_to_end(config: RunConfig, roofline: Roofline) -> Callable[[], Pass]:
    """A real run from the start, as timed by itself: from the opening of the first shard to the last done-record."""

    def end_to_end() -> Pass:
        shutil.rmtree(config.output, ignore_errors=True)
        start = time.perf_counter()
        result = run(config, Reporter(None))
        wall, s = time.perf_counter() - start, result.snapshot
        if result.outcome == ExitCode.COMPLETE and not s.captioned:
            raise ConfigError(NOTHING_TO_CAPTION)
        if result.outcome != ExitCode.COMPLETE:
            problems = "; ".join(report.error for report in result.reports if report.error)
            raise RecapError(f"The run ended with exit code {result.outcome}, {s.captioned} captions. {problems}")
        details = {
            "busy": s.busy,
            "limiting_stage": s.limiting_stage,
            "failed": s.failed,
            "startup_s": round(wall - s.seconds, 3),
        }
        figures = roofline.figures(result.statistics, s.seconds)
        return Pass(s.captioned, s.seconds, s.generated, s.num_tokens, figures, details)

    return end_to_end
