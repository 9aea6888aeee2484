"""The command line. Parses, makes a config, calls, and turns the outcome into an exit code.

0 complete; 1 failure; 2 usage; 3 complete, but more errors than --max-error-rate; 4 `verify` found a gap; 75 drained on
a signal, start again to go on; 128 + n killed by signal n.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from recap_fast import __version__
from recap_fast.errors import ConfigError, RecapError

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}
FOLDER = click.Path(path_type=Path, file_okay=False)


class _Command(click.Command):
    """A command whose options may be typed with underscores too, as img2dataset and clip-retrieval spell them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_with_dashes(a) for a in args])


def _with_dashes(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return (name.replace("_", "-") if name.startswith("--") else name) + equals + value


@click.group(context_settings=SETTINGS)
@click.version_option(__version__, prog_name="recap-fast")
def cli() -> None:
    """Recaptions web-scale image datasets: shards of images in, Parquet shards of captions out.

    \b
    1. recap-fast build-engine RECIPE --checkpoint DIR --output ENGINE
    2. recap-fast run --engine ENGINE --shards '{00000..00099}.tar' --output OUT
    3. recap-fast verify OUT
    """


@cli.command("build-engine", cls=_Command)
@click.argument("recipe")
@click.option("--checkpoint", type=FOLDER, required=True, help="LLaVA checkpoint: safetensors and config.json.")
@click.option("--output", type=FOLDER, required=True, help="Engine directory to make.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Tokenizer to use instead of the checkpoint's.")
@click.option("--precision", help="Instead of the recipe's: float32, bfloat16, float16, fp8 or int8.")
@click.option("--backend", type=click.Choice(["torch", "tensorrt-llm"]), default="torch", help="What will run it.")
@click.option("--flow", type=click.Choice(["trt", "pytorch"]), help="Of tensorrt-llm: compiled or not.  [default: trt]")
@click.option("--calibration", type=click.Path(path_type=Path), help="Of tensorrt-llm: captions to calibrate FP8 with.")
@click.option("--tune", "is_tuned", is_flag=True, help="Find the fastest sizes on this machine, as `tune` does.")
@click.option("--overwrite", is_flag=True, help="Replace an engine that is there.")
def build_engine(recipe: str, checkpoint: Path, output: Path, is_tuned: bool, **choices: Any) -> None:
    """Makes an engine directory from RECIPE (a .toml file, or the name of one that ships) and a checkpoint."""
    from recap_fast.build.engine_directory import build_engine as build

    if is_tuned and choices["backend"] != "torch":
        raise click.UsageError("--tune is for --backend torch: the recipe's limits size an engine of tensorrt-llm.")
    bars: list[Any] = []
    with contextlib.ExitStack() as stack:

        def show(done: int, total: int) -> None:
            if not bars:  # an error before it shows nothing but itself
                bars.append(stack.enter_context(click.progressbar(length=total, label="weights", file=sys.stderr)))
            bars[0].update(done - bars[0].pos)

        spec = build(recipe, checkpoint, output, progress=show, **choices)
    size = sum(f.stat().st_size for f in output.rglob("*") if f.is_file()) / 2**20
    click.echo(
        f"{spec.name}: {spec.text.num_layers} decoder layers of {spec.text.hidden_size}, "
        f"{spec.vision.num_image_tokens} image tokens, {spec.precision}, {size:,.1f} MiB in {output}"
    )
    if is_tuned:
        _tune(output, "auto")


@cli.command(cls=_Command)
@click.option("--engine", type=FOLDER, required=True, help="Engine directory, from build-engine.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
def tune(engine: Path, device: str) -> None:
    """Finds the --num-slots and --prefill-images that are fastest on this device; later runs on it use them.

    They are kept in the engine directory, for each device by name, and change no caption in float32.
    """
    _tune(engine, device)


def _tune(engine: Path, device: str) -> None:
    from recap_fast.bench.tune import tune as search

    click.echo(search(engine, device, say=lambda line: click.echo(line, err=True)).table())


@cli.command(cls=_Command)
@click.option("--engine", type=FOLDER, required=True, help="Engine directory, from build-engine.")
@click.option(
    "--shards",
    "--input",
    multiple=True,
    required=True,
    help="Tars, Parquet files or folders of images: path or URL, '{00000..00099}.tar', glob, @list.txt. Repeatable.",
)
@click.option("--output", "--output-folder", type=FOLDER, required=True, help="Folder for captions; resumed if there.")
@click.option("--decoder", type=click.Choice(["auto", "dali", "pillow"]), default="auto", help="Image decoder.")
@click.option("--decode-threads", type=int, help="Threads that decode images.  [default: half the processors]")
@click.option("--max-image-pixels", type=int, help="Larger images are refused.  [default: 89,478,485]")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--num-slots", type=int, help="Captions generated at once.  [default: the engine's]")
@click.option("--prefill-images", type=int, help="Images that join in one step.  [default: the engine's]")
@click.option("--prompt", help="Question to ask instead of the engine's; may hold fields: {org_caption}.")
@click.option("--prompt-file", type=click.Path(path_type=Path, dir_okay=False), help="The same, from a file.")
@click.option("--max-field-tokens", type=int, default=128, help="Longer fields of the prompt are cut.")
@click.option("--max-new-tokens", type=int, help="Longest caption.  [default: the engine's]")
@click.option("--temperature", type=float, default=0.0, help="0 is greedy, the paper's way.")
@click.option("--top-k", type=int, default=0, help="Sample among so many tokens; 0 is all.")
@click.option("--top-p", type=float, default=1.0, help="Sample among the likeliest tokens of this probability.")
@click.option("--seed", type=int, default=0, help="Of the sampling.")
@click.option("--loop-stop/--no-loop-stop", default=True, help="End captions that repeat themselves.")
@click.option("--image-column", help="Column of Parquet inputs with the image bytes.  [default: found by type]")
@click.option("--caption-column", help="Column of Parquet inputs with the original caption.")
@click.option("--limit", type=int, help="Stop after so many images; the shard cut by it is not done.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--overwrite", is_flag=True, help="Delete the captions that are there and begin anew.")
@click.option("--retry-failed", is_flag=True, help="Do rows with an error again.")
@click.option("--redo-changed", is_flag=True, help="Do shards again whose input has changed.")
@click.option("--shard-index", type=int, help="This process's part, from 0.  [default: SLURM_ARRAY_TASK_ID]")
@click.option("--num-shards", type=int, help="Processes that share the work.  [default: SLURM_ARRAY_TASK_COUNT]")
@click.option("--drain-seconds", type=float, default=60.0, help="Time to finish captions in flight after a signal.")
@click.option("--max-error-rate", type=float, default=0.1, help="Exit with 3 if a larger share has no caption.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="Of what goes to stderr.")
def run(**given: Any) -> None:
    """Captions shards of images. Run it again to go on where it was stopped, or to retry shards that failed.

    SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 finish the captions in flight and stop; a second signal stops at once. Exit
    codes: 0 complete; 1 a shard or the engine failed; 2 usage; 3 complete, but more images failed than
    --max-error-rate; 75 stopped by a signal.
    """
    from recap_fast.launch.execute import run as launch
    from recap_fast.launch.reporter import Reporter, ReporterHandler

    reporter = Reporter(given.pop("log_format"))
    logger = logging.getLogger("recap_fast")
    logger.addHandler(ReporterHandler(reporter))
    logger.propagate = False
    _exit_with_sentence(
        lambda: sys.exit(launch(_run_config(given), reporter)), lambda text: reporter.event("error", text)
    )


@cli.command(cls=_Command)
@click.argument("output", type=FOLDER)
@click.option("--shards", "--input", multiple=True, help="Count the samples of these inputs again; as given to run.")
@click.option("--image-column", help="As given to run; only with --shards.")
def verify(output: Path, shards: tuple[str, ...], image_column: str | None) -> None:
    """Proves that the folder OUTPUT of a run is whole: every sample of every shard has one row, every file its hash.

    Exit codes: 0 proven; 4 a gap was found, each is named.
    """
    from recap_fast.shards.expand import expand
    from recap_fast.shards.sample import Columns
    from recap_fast.write.verify import verify as check

    inputs = expand(shards, Columns(image=image_column)) if shards else None
    with _without_warnings():  # `run` gave them when it read the same inputs
        verdict = check(output, inputs)
    failed = ", ".join(f"{count:,} {status}" for status, count in verdict.failed.most_common())
    click.echo(f"shards     {verdict.num_shards:,}")
    click.echo(f"rows       {verdict.rows:,}")
    click.echo(f"captioned  {verdict.captioned:,}")
    click.echo(f"failed     {verdict.failed.total():,}" + (f"  ({failed})" if failed else ""))
    for note in verdict.notes:
        click.echo(f"note: {note}")
    for fault in verdict.faults:
        click.echo(f"fault: {fault.shard} {fault.sentence}")
    if verdict.faults:
        click.echo(
            f"Not proven: {_count(len(verdict.faults), 'fault')}. Run again, after what is said above: shards that are "
            "missing or unfinished are redone."
        )
        sys.exit(4)
    counted = ""
    if inputs is not None:
        some = f" for {len(inputs.shards)} of them" if len(inputs.shards) < verdict.num_shards else ""
        counted = f", counted against the inputs{some}"
    click.echo(f"Proven: every sample has exactly one row, every file is as it was written{counted}.")


@cli.command(cls=_Command)
@click.option("--engine", type=FOLDER, required=True, help="Engine directory, from build-engine.")
@click.option("--shards", multiple=True, help="Images to measure with, as `run` takes them.  [default: made-up ones]")
@click.option("--limit", type=int, default=256, help="Use so many images; they are held in memory.")
@click.option("--image-size", default="512x384", help="Width and height of made-up images.")
@click.option(
    "--stage",
    type=click.Choice(["all", "read", "decode", "generate", "write", "end-to-end"]),
    default="all",
    help="What to measure: one stage alone, or a whole run.",
)
@click.option("--repeat", type=int, default=3, help="Measure so often, after a warm-up; the figures are medians.")
@click.option("--decoder", type=click.Choice(["auto", "dali", "pillow"]), default="auto", help="Image decoder.")
@click.option("--decode-threads", type=int, help="Threads that decode images.  [default: half the processors]")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--num-slots", type=int, help="Captions generated at once.  [default: the engine's]")
@click.option("--prefill-images", type=int, help="Images that join in one step.  [default: the engine's]")
@click.option("--max-new-tokens", type=int, help="Longest caption.  [default: the engine's]")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here.")
def bench(**given: Any) -> None:
    """Measures each stage alone and all of them end to end: images/s, tokens/s, memory, and which stage limits."""
    from recap_fast.bench.stages import bench as measure

    json_file = given.pop("json_file")
    with _without_warnings():  # each pass would give them again
        report = measure(_bench_config(given))
    click.echo(report.table())
    if json_file is not None:
        json_file.write_text(report.as_json(["recap-fast", *sys.argv[1:]]), encoding="utf-8")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    logger = logging.getLogger("recap_fast")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' if number != 1 else ''}"


def _bench_config(given: dict[str, Any]) -> Any:
    from recap_fast.bench.stages import STAGES, BenchConfig
    from recap_fast.generate.engine import EngineOptions
    from recap_fast.launch.config import default_decode_threads

    names = ("device", "num_slots", "prefill_images", "max_new_tokens")
    options = EngineOptions(**{name: given.pop(name) for name in names})
    width, _, height = given["image_size"].partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"--image-size {given['image_size']}: give width and height in pixels, such as 512x384.")
    given["image_size"] = int(width), int(height)
    stage = given.pop("stage")
    threads = given.pop("decode_threads")
    return BenchConfig(
        stages=STAGES if stage == "all" else (stage,),
        options=options,
        decode_threads=default_decode_threads() if threads is None else threads,
        **given,
    )


def _run_config(given: dict[str, Any]) -> Any:
    from recap_fast.decode.decoder import DEFAULT_MAX_IMAGE_PIXELS
    from recap_fast.generate.engine import EngineOptions, Sampling
    from recap_fast.launch.config import RunConfig, default_decode_threads

    if (file := given.pop("prompt_file")) is not None:
        if given["prompt"] is not None:
            raise ConfigError("--prompt and --prompt-file: give one of them.")
        try:
            given["prompt"] = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--prompt-file {file} cannot be read: {error}") from error

    def take(*names: str) -> dict[str, Any]:
        return {name: given.pop(name) for name in names}

    sampling = Sampling(**take("temperature", "top_k", "top_p", "seed"))
    options = EngineOptions(
        **take("device", "num_slots", "prefill_images", "max_new_tokens", "loop_stop"), sampling=sampling
    )
    threads = given.pop("decode_threads")
    pixels = given.pop("max_image_pixels")
    return RunConfig(
        options=options,
        decode_threads=default_decode_threads() if threads is None else threads,
        max_image_pixels=DEFAULT_MAX_IMAGE_PIXELS if pixels is None else pixels,
        **given,
    )


def main() -> None:
    """The entry point: errors that are the user's to mend become one sentence, not a traceback."""
    _exit_with_sentence(cli, lambda text: click.echo(text, err=True))


def _exit_with_sentence(command: Callable[[], Any], say: Callable[[str], None]) -> None:
    try:
        command()
    except (RecapError, OSError) as error:
        say(f"recap-fast: {error}")
        sys.exit(2 if isinstance(error, ConfigError) else 1)
