"""`recap-fast run`."""

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from recap_fast.cli import options
from recap_fast.cli.command import Command, group, option
from recap_fast.cli.messages import flush_streams, outcome_with_sentence, writing
from recap_fast.errors import ExitCode

if TYPE_CHECKING:
    from recap_fast.launch.reporter import Reporter
    from recap_fast.launch.signals import Signals


EXAMPLES = """
\b
Examples:
  recap-fast run --engine engine --shards photos --output captions
  recap-fast run --engine engine --shards '{00000..00099}.tar' --output out
"""


@click.command(cls=Command, short_help="Caption images, or go on where a run stopped.", epilog=EXAMPLES)
@group(
    "Input",
    options.engine,
    options.inputs("Tars, Parquet files or folders: path, URL, glob or @list.txt. Repeatable.", required=True),
    options.image_column,
    option("--caption-column", metavar="NAME", help="Parquet column with the original captions."),
    options.images,
    options.image_key,
    options.max_image_pixels,
    option(
        "--background",
        metavar="COLOR",
        help="Color behind transparent parts, such as white or '#808080'.  [default: none]",
    ),
    options.relocate,
    options.read_timeout,
)
@group(
    "Output",
    option(
        "--output",
        "--output-folder",
        type=options.OUTPUT,
        required=True,
        metavar="DIR",
        help="Folder for the captions, or its URL: s3://, gs:// or az://.",
    ),
    option("--limit", type=int, metavar="N", help="Stop after N images. The next run goes on from there."),
    option("--dedup/--no-dedup", default=True, help="Caption identical images once, not each by itself."),
    option("--dry-run", is_flag=True, help="Show what would be done, and write nothing."),
    option("--overwrite", is_flag=True, help="Delete captions that another command wrote to the output folder."),
    option(
        "--retry-failed",
        is_flag=False,
        flag_value="all",
        metavar="[STATUS,...]",
        help="Retry images that failed: all, or those of these statuses.",
    ),
    option("--redo-changed", is_flag=True, help="Caption again what has changed in the inputs."),
    option("--prune", is_flag=True, help="Remove rows of images that are gone from their folder."),
    option("--accept-changed", metavar="NAME,...", help="Continue although these have changed: decoder, versions."),
)
@group("Prompt", *options.prompt)
@group("Speed", *options.speed)
@group(
    "Cluster",
    option(
        "--part",
        metavar="I/N",
        help="Caption only part I of N of the shards, such as 3/8.  [default: torchrun's or Slurm's]",
    ),
    option("--shard-index", type=int, hidden=True, help="As --part, but counted from 0."),
    option("--num-shards", type=int, hidden=True, help="Number of parts, with --shard-index."),
    option("--ray", metavar="ADDRESS", help="Run on a Ray cluster: its address, auto, or local to start one here."),
    option("--min-workers", type=int, default=0, metavar="N", help="With --ray: ask for at least N workers."),
    option("--max-workers", type=int, metavar="N", help="With --ray: at most N workers.  [default: all that fit]"),
    option("--ray-worker-cpus", type=int, default=1, metavar="N", help="With --ray: CPUs of each worker."),
    option("--runtime-env", type=options.FILE, help="With --ray: JSON file with the workers' runtime environment."),
    option(
        "--drain-seconds", type=float, default=60.0, metavar="SECONDS", help="Time to finish captions after a signal."
    ),
)
@group(
    "Other",
    option(
        "--max-error-rate",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="Exit with code 3 if a larger share of images failed.",
    ),
    option("--metrics-port", type=int, metavar="PORT", help="Serve metrics for Prometheus on this port."),
    option("--log-format", type=click.Choice(["text", "json"]), default="text", help="Format of messages on stderr."),
)
def run(**given: Any) -> None:
    """Captions images: tars, Parquet files or folders in, Parquet files of captions out.

    Run the same command again to go on where it stopped, or to retry shards that failed.

    SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 stop it after the captions in flight; a second signal stops it at once.

    Exit codes: 0 complete; 1 a shard or the engine failed; 2 usage; 3 complete, but more images failed than
    --max-error-rate allows; 75 stopped by a signal.
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
        flush_streams()
        os._exit(code)
    sys.exit(code)


def _command(given: dict[str, Any], reporter: "Reporter", signals: "Signals") -> ExitCode:
    from recap_fast.launch.reporter import ReporterHandler

    logger = logging.getLogger("recap_fast")
    logger.handlers = [ReporterHandler(reporter)]
    logger.propagate = False
    return outcome_with_sentence(lambda: _run(given, reporter, signals), lambda text: reporter.event("error", text))


def _run(given: dict[str, Any], reporter: "Reporter", signals: "Signals") -> ExitCode:
    from recap_fast.launch.config import RunConfig
    from recap_fast.launch.dry_run import dry_run
    from recap_fast.launch.execute import run as launch
    from recap_fast.launch.torchrun import exit_code
    from recap_fast.shards.patience import patience

    is_dry = given.pop("dry_run")
    config = RunConfig.of(options.with_prompts(given))
    with patience(config.read_timeout):
        if not is_dry:
            with writing("--output", config.output):
                return exit_code(launch(config, reporter, signals).outcome, config.output, reporter)
        dry_run(config, reporter)
    return ExitCode.COMPLETE
