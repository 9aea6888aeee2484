"""`recap-fast bench` and `recap-fast tune`."""

import sys
from pathlib import Path
from typing import Any

import click

from recap_fast.cli import options
from recap_fast.cli.command import Command, group, option
from recap_fast.cli.messages import check_writable, quiet, writing
from recap_fast.cli.progress import bar
from recap_fast.errors import ConfigError


@click.command(cls=Command, short_help="Find the fastest sizes for this device.")
@group("Input", options.engine, options.verify, options.device)
def tune(engine: Path, device: str, verify: bool) -> None:
    """Finds the fastest --num-slots and --prefill-images for this device. Later runs on it use them.

    The engine directory keeps them. In float32 they change no caption.
    """
    from recap_fast.bench.tune import tune as search

    if engine.is_dir():
        check_writable("--engine", engine / "tuning.json")
    with writing("--engine", engine / "tuning.json"):
        with bar("trying sizes") as shown:
            tuning = search(engine, device, verify=verify, say=shown.say, progress=shown.show)
        click.echo(tuning.table())


@click.command(cls=Command, short_help="Measure how fast each stage is, and which one limits.")
@group(
    "Input",
    options.engine,
    options.inputs("Inputs to measure with, given as for run.  [default: drawn images]"),
    option("--limit", type=int, default=256, metavar="N", help="Measure with N images. They are held in memory."),
    option("--image-size", default="512x384", metavar="WxH", help="Width and height of the drawn images."),
)
@group(
    "Measurement",
    option(
        "--stage",
        type=click.Choice(["all", "read", "decode", "generate", "write", "end-to-end"]),
        default="all",
        help="Measure one stage alone, or whole runs.",
    ),
    option("--repeat", type=int, default=3, metavar="N", help="Measure N times after a warm-up. Figures are medians."),
    option("--json", "json_file", type=options.FILE, help="Also write the figures to this file."),
)
@group("Prompt", *options.prompt)
@group("Speed", *options.speed)
def bench(**given: Any) -> None:
    """Measures each stage alone and whole runs: images/s, tokens/s, memory, and which stage is the limit."""
    from recap_fast.bench.bench import STAGES, BenchConfig
    from recap_fast.bench.bench import bench as measure

    json_file, stage = given.pop("json_file"), given.pop("stage")
    given["image_size"] = _image_size(given["image_size"])
    if json_file is not None:
        check_writable("--json", json_file)
    config = BenchConfig.of({**options.with_prompts(given), "stages": STAGES if stage == "all" else (stage,)})
    with quiet(), bar("measuring") as shown:  # each pass would warn again
        report = measure(config, shown.show)
    click.echo(report.table())
    if json_file is not None:
        with writing("--json", json_file):
            json_file.write_text(report.as_json(["recap-fast", *sys.argv[1:]]), encoding="utf-8")


def _image_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"--image-size {text}: give width and height in pixels, such as 512x384.")
    return int(width), int(height)
