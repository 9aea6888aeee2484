"""`recap-fast build-engine`."""

from pathlib import Path
from typing import Any

import click

from recap_fast.cli.messages import writing
from recap_fast.cli.options import FOLDER
from recap_fast.cli.progress import bar

ANY_PATH = click.Path(path_type=Path)


@click.command("build-engine")
@click.argument("recipe")
@click.option("--checkpoint", type=ANY_PATH, required=True, help="LLaVA checkpoint: safetensors and config.json.")
@click.option("--output", type=FOLDER, required=True, help="Engine directory to make.")
@click.option("--tokenizer", type=ANY_PATH, help="Tokenizer to use instead of the checkpoint's.")
@click.option("--precision", help="Instead of the recipe's: float32, bfloat16, float16, fp8 or int8.")
@click.option("--backend", type=click.Choice(["torch", "tensorrt-llm"]), default="torch", help="What will run it.")
@click.option("--calibration", type=ANY_PATH, help="Of tensorrt-llm: captions to calibrate FP8 with.")
@click.option("--tune", "is_tuned", is_flag=True, help="Find the fastest sizes on this machine, as `tune` does.")
@click.option("--overwrite", is_flag=True, help="Replace an engine that is there.")
def build_engine(recipe: str, checkpoint: Path, output: Path, is_tuned: bool, **choices: Any) -> None:
    """Makes an engine directory from RECIPE (a .toml file, or the name of one that ships) and a checkpoint."""
    from recap_fast.build.engine_directory import build_engine as build
    from recap_fast.build.summary import summarize

    if is_tuned and choices["backend"] != "torch":
        raise click.UsageError("--tune is for --backend torch: the recipe's limits size an engine of tensorrt-llm.")
    with bar("writing weights", is_bytes=True) as shown, writing("--output", output):
        build(recipe, checkpoint, output, progress=shown.show, **choices)
    click.echo(summarize(output))
    if is_tuned:
        from recap_fast.bench.tune import tune

        with bar("trying sizes") as shown:
            tuning = tune(output, "auto", say=shown.say, progress=shown.show)
        click.echo(tuning.table())
