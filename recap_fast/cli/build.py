"""`recap-fast build-engine`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from recap_fast.cli.command import Command, group, option
from recap_fast.cli.messages import writing
from recap_fast.cli.options import ANY_PATH, FOLDER, InputPath
from recap_fast.cli.progress import bar

if TYPE_CHECKING:
    from recap_fast.generate.spec import EngineSpec
    from recap_fast.generate.tokenizer import Tokenizer


def _complete_recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names that ship, and the files of the current folder."""
    from recap_fast.build.recipe import shipped_recipes

    names = [name for name in shipped_recipes() if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


@click.command("build-engine", cls=Command, short_help="Make an engine from a recipe and a checkpoint.")
@click.argument("recipe", shell_complete=_complete_recipe)
@group(
    "Input",
    option(
        "--checkpoint",
        type=InputPath(),
        required=True,
        metavar="DIR|NAME",
        help="LLaVA checkpoint: a folder, or ORG/NAME or ORG/NAME@REVISION on the Hub.",
    ),
    option(
        "--tokenizer",
        type=InputPath(),
        metavar="PATH|NAME",
        help="Tokenizer: a file, a folder or a name on the Hub.  [default: the checkpoint's]",
    ),
    option("--calibration", type=ANY_PATH, help="Captions for the FP8 calibration of tensorrt-llm."),
)
@group(
    "Output",
    option("--output", type=FOLDER, required=True, metavar="DIR", help="Engine directory to make."),
    option("--overwrite", is_flag=True, help="Replace an engine that is already there."),
    option(
        "--precision",
        metavar="NAME",
        help="Number format: float32, bfloat16, float16, fp8 or int8.  [default: the recipe's]",
    ),
    option(
        "--backend", type=click.Choice(["torch", "tensorrt-llm"]), default="torch", help="Library that runs the engine."
    ),
    option("--tune", "is_tuned", is_flag=True, help="Find the fastest sizes for this machine, as `tune` does."),
)
def build_engine(recipe: str, checkpoint: str, output: Path, is_tuned: bool, **choices: Any) -> None:
    """Makes an engine directory from a checkpoint and RECIPE: a .toml file, or one of these names.

    \b
    joycaption            JoyCaption in bfloat16, for 24 GB or more
    joycaption_fp8        the same in FP8, for H100, H200, L40S, L4, RTX 4090
    joycaption_int8       the same in int8, for A100, A10, RTX 3090 and CPUs
    llava                 any LLaVA-1.5, in the checkpoint's precision
    llava_llama3_8b       the paper's model in bfloat16, for 24 GB or more
    llava_llama3_8b_fp8   the same in FP8, for H100, H200, L40S, L4, RTX 4090
    llava_llama3_8b_int8  the same in int8, for A100, A10, RTX 3090 and CPUs
    recap_tiny            the demo, which knows drawn shapes only
    """
    from recap_fast.bench.speed import speed_on_cpu
    from recap_fast.build.engine_directory import build_engine as build
    from recap_fast.build.summary import summarize

    def announce(spec: "EngineSpec", tokenizer: "Tokenizer") -> None:
        click.echo(summarize(spec, tokenizer))
        if speed := speed_on_cpu(spec, tokenizer):
            click.echo(speed)

    if is_tuned and choices["backend"] != "torch":
        raise click.UsageError("--tune is for --backend torch: the recipe's limits size an engine of tensorrt-llm.")
    with bar("writing weights", is_bytes=True) as shown, writing("--output", output):
        build(recipe, checkpoint, output, progress=shown.show, announce=announce, **choices)
    click.echo(f"Next: recap-fast run --engine {shlex.quote(str(output))} --shards IMAGES --output captions")
    if is_tuned:
        from recap_fast.bench.tune import tune

        with bar("trying sizes") as shown:
            tuning = tune(output, "auto", say=shown.say, progress=shown.show)
        click.echo(tuning.table())
