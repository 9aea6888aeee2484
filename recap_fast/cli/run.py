"""`recap-fast run`."""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recap_fast.cli import options
from recap_fast.cli.messages import outcome_with_sentence
from recap_fast.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from recap_fast.launch.plan import Plan
    from recap_fast.launch.reporter import Reporter
    from recap_fast.launch.signals import Signals


@click.command()
@options.engine
@click.option(
    "--shards",
    "--input",
    multiple=True,
    required=True,
    help="Tars, Parquet files or folders of images: path or URL, '{00000..00099}.tar', glob, @list.txt. Repeatable.",
)
@click.option(
    "--output", "--output-folder", type=options.FOLDER, required=True, help="Folder for captions; resumed if there."
)
@options.speed
@options.max_image_pixels
@click.option("--background", help="Color behind transparent pixels: white, '#rrggbb'.  [default: alpha is dropped]")
@click.option("--prompt", help="Question to ask instead of the engine's; may hold fields: {org_caption}.")
@click.option("--prompt-file", type=options.FILE, help="The same, from a file.")
@options.max_field_tokens
@click.option("--temperature", type=float, default=0.0, help="0 is greedy, the paper's way.")
@click.option("--top-k", type=int, default=0, help="Sample from the k most likely tokens; 0 means all.")
@click.option(
    "--top-p", type=float, default=1.0, help="Sample from the most likely tokens that together have this probability."
)
@click.option("--seed", type=int, default=0, help="Random seed for sampling.")
@click.option("--loop-stop/--no-loop-stop", default=True, help="End captions that repeat themselves.")
@options.image_column
@click.option("--caption-column", help="Column of Parquet inputs with the original caption.")
@click.option(
    "--images",
    type=click.Choice(["first", "all"]),
    default="first",
    help="Of samples with several images, caption the first or all.",
)
@click.option("--image-key", help="Of each sample, caption only this image: its extension, or its column.")
@click.option("--limit", type=int, help="Stop after so many images; the shard it stops in stays unfinished.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Delete what other commands have written; the same command goes on where it stopped.",
)
@click.option(
    "--retry-failed",
    is_flag=False,
    flag_value="all",
    metavar="[STATUS,...]",
    help="Retry images that failed: all, or those of some statuses (truncated,corrupt).",
)
@click.option("--redo-changed", is_flag=True, help="Recaption shards, and images in folders, that have changed.")
@click.option("--prune", is_flag=True, help="Remove the rows of images that are gone from their folder.")
@options.relocate
@click.option("--accept-changed", metavar="NAME,...", help="Go on although these have changed: decoder, versions.")
@click.option("--shard-index", type=int, help="This process's part, from 0.  [default: SLURM_ARRAY_TASK_ID]")
@click.option("--num-shards", type=int, help="Processes that share the work.  [default: SLURM_ARRAY_TASK_COUNT]")
@click.option("--drain-seconds", type=float, default=60.0, help="Time to finish captions in flight after a signal.")
@options.read_timeout
@click.option("--max-error-rate", type=float, default=0.1, help="Exit with 3 if a larger share has no caption.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", help="Format of the messages on stderr."
)
def run(**given: Any) -> None:
    """Captions shards of images. Run it again to go on where it was stopped, or to retry shards that failed.

    SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 finish the captions in flight and stop; a second signal stops at once. Exit
    codes: 0 complete; 1 a shard or the engine failed; 2 usage; 3 complete, but more images failed than
    --max-error-rate; 75 stopped by a signal.
    """
    from recap_fast.decode.noise import own_stderr
    from recap_fast.launch.reporter import Reporter
    from recap_fast.launch.signals import STOPPED, Signals, Stopped

    with own_stderr() as stream:
        reporter = Reporter(given.pop("log_format"), stream)
        try:
            with Signals(given["drain_seconds"]) as signals:
                signals.say = reporter.event
                code = _command(given, reporter, signals)
        except Stopped:
            reporter.event("drained", STOPPED)
            code = ExitCode.DRAINED
    if code == ExitCode.DRAINED:  # what hangs in a read or a decoder must not keep the process
        _flush()
        os._exit(code)
    sys.exit(code)


def _command(given: dict[str, Any], reporter: "Reporter", signals: "Signals") -> ExitCode:
    from recap_fast.launch.reporter import ReporterHandler

    logger = logging.getLogger("recap_fast")
    logger.handlers = [ReporterHandler(reporter)]
    logger.propagate = False
    return outcome_with_sentence(lambda: _run(given, reporter, signals), lambda text: reporter.event("error", text))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not there
            stream.flush()


def _run(given: dict[str, Any], reporter: "Reporter", signals: "Signals") -> ExitCode:
    from recap_fast.launch.config import RunConfig
    from recap_fast.launch.execute import run as launch
    from recap_fast.launch.plan import plan
    from recap_fast.shards.patience import patience

    dry_run, prompt = given.pop("dry_run"), _prompt(given.pop("prompt"), given.pop("prompt_file"))
    config = RunConfig.of({**given, "prompt": prompt})
    with patience(config.read_timeout):
        if not dry_run:
            return launch(config, reporter, signals).outcome
        with contextlib.closing(plan(config)) as made:
            _show(made, reporter)
    return ExitCode.COMPLETE


def _prompt(prompt: str | None, file: Path | None) -> str | None:
    if file is None:
        return prompt
    if prompt is not None:
        raise ConfigError("--prompt and --prompt-file: give one of them.")
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompt-file {file} cannot be read: {error}") from error


def _show(made: "Plan", reporter: "Reporter") -> None:
    """Lists what `run` would do; nothing was loaded or written for it."""
    from recap_fast.launch.messages import show_shard

    pending, total = made.pending(), len(made.ledger.shards)
    for shard, reason in ((p.shard, p.reason) for p in pending):
        target = made.ledger.output.data(shard.name)
        reporter.event("plan", f"{show_shard(shard)} -> {target} ({reason})", shard=shard.name, reason=reason)
    text = f"{len(pending)} of {total} shards to do; nothing was written."
    reporter.event("dry_run", text, pending=len(pending), total=total)
