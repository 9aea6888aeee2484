"""`recap-fast bench` and `recap-fast tune`."""

import sys
from pathlib import Path
from typing import Any

import click

from recap_fast.cli import options
from recap_fast.cli.messages import check_writable, quiet, writing
from recap_fast.cli.progress import bar
from recap_fast.errors import ConfigError


@click.command()
@options.engine
@options.device
@options.verify
def tune(engine: Path, device: str, verify: bool) -> None:
    """Finds the --num-slots and --prefill-images that are fastest on this device; later runs on it use them.

    They are kept in the engine directory, for each device by name, and change no caption in float32.
    """
    from recap_fast.bench.tune import tune as search

    if engine.is_dir():
        check_writable("--engine", engine / "tuning.json")
    with writing("--engine", engine / "tuning.json"):
        with bar("trying sizes") as shown:
            tuning = search(engine, device, verify=verify, say=shown.say, progress=shown.show)
        click.echo(tuning.table())


@click.command()
@options.engine
@click.option("--shards", multiple=True, help="Images to measure with, as `run` takes them.  [default: made-up ones]")
@click.option("--limit", type=int, default=256, help="Use so many images; they are held in memory.")
@click.option("--image-size", default="512x384", help="Width and height of made-up images.")
@click.option(
    "--stage",
    type=click.Choice(["all", "read", "decode", "generate", "write", "end-to-end"]),
    default="all",
    help="What to measure: one stage alone, or a whole run.",
)
@click.option("--repeat", type=int, default=3, help="Timed passes after one warm-up; the figures are medians.")
@options.speed
@click.option("--json", "json_file", type=options.FILE, help="Write the figures here.")
def bench(**given: Any) -> None:
    """Measures each stage alone and all of them end to end: images/s, tokens/s, memory, and which stage limits."""
    from recap_fast.bench.bench import STAGES, BenchConfig
    from recap_fast.bench.bench import bench as measure

    json_file, stage = given.pop("json_file"), given.pop("stage")
    given["image_size"] = _image_size(given["image_size"])
    if json_file is not None:
        check_writable("--json", json_file)
    config = BenchConfig.of({**given, "stages": STAGES if stage == "all" else (stage,)})
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
