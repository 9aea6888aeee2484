"""`recap-fast export`."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from recap_fast.cli import options
from recap_fast.cli.command import Command, group, option
from recap_fast.cli.messages import writing
from recap_fast.cli.progress import bar, is_watched
from recap_fast.errors import ExitCode
from recap_fast.text import counted

if TYPE_CHECKING:
    from recap_fast.export.job import ExportResult

KINDS = "webdataset", "txt", "jsonl", "csv", "parquet", "coco", "hub"
MAX_NAMES, MAX_WORKERS = 10, 4
EXAMPLES = """
\b
Examples:
  recap-fast export out --to webdataset --target tars
  recap-fast export out --to webdataset --target tars --mix-p 0.8 --skip loop
"""


@click.command(cls=Command, short_help="Bring captions to where training reads them.", epilog=EXAMPLES)
@click.argument("output", type=options.OUTPUT)
@group(
    "Output",
    option("--to", type=click.Choice(KINDS), required=True, help="What to write."),
    option("--target", type=options.FOLDER, metavar="DIR", help="Local folder to write to."),
    option("--beside", is_flag=True, help="For txt: write beside the images, instead of --target."),
    option("--extension", default=".txt", metavar=".EXT", help="For txt: of the files' names."),
    option("--columns", metavar="NAME,...", help="Bring these columns of the output along."),
    option(
        "--caption-in",
        type=click.Choice(["json", "txt"]),
        help="For webdataset: write captions to the json or as .txt.",
    ),
    option("--images/--no-images", default=True, help="For parquet and hub: bring the images along."),
    option("--repo", metavar="NAME/DATASET", help="For hub: the dataset to upload to."),
    option("--private", is_flag=True, help="For hub: make the dataset private, if it is not there yet."),
    option("--license", metavar="NAME", help="For hub: the license, as the Hub calls it.  [default: the model's]"),
    option("--overwrite", is_flag=True, help="Replace files that this export did not write."),
    option("--workers", type=int, metavar="N", help="Write with N processes.  [default: one a CPU, up to 4]"),
    option("--verify/--no-verify", default=True, help="Read back what was copied, and compare it with the input."),
)
@group(
    "Captions",
    option("--skip", metavar="FLAG,...", help="Leave out samples with these flags; failed: those without a caption."),
    option("--mix-p", type=float, metavar="P", help="Write one caption: the original with probability P, else ours."),
    option("--sub-caption", type=click.Choice(["first", "random"]), help="Write only one sentence of our captions."),
    option("--seed", type=int, default=0, metavar="N", help="Random seed for what is drawn."),
)
@group(
    "Input",
    option(
        "--shards",
        "--input",
        multiple=True,
        type=options.INPUT,
        help="Export only these inputs, or say where they lie now. Repeatable.  [default: those of the run]",
    ),
    options.relocate,
    options.read_timeout,
)
def export(**given: Any) -> None:
    """Brings the captions in the folder OUTPUT to where training reads them; the output itself is not changed.

    Shards that the run has not finished are named and left out. Run the same command again to go on where it stopped,
    and to export what has changed in the output since.

    Exit codes: 0 complete; 1 a shard is missing; 2 usage; 75 stopped by a signal.
    """
    from recap_fast.cpus import usable_cpus
    from recap_fast.export.config import ExportConfig
    from recap_fast.export.export import export as write
    from recap_fast.launch.signals import STOPPED, Signals, Stopped

    workers = min(MAX_WORKERS, int(usable_cpus())) if given["workers"] is None else given["workers"]
    config = ExportConfig.of({**given, "workers": workers})
    try:
        place = ("--target", config.target) if config.target else ("--beside", "the images")
        with Signals(0.0), writing(*place), bar("exporting") as shown:
            result = write(config, shown.show, shown.close if is_watched() else None)
    except Stopped:
        click.echo(STOPPED, err=True)
        sys.exit(ExitCode.DRAINED)
    click.echo("\n".join(_describe(result)))
    sys.exit(result.exit_code)


def _describe(result: "ExportResult") -> list[str]:
    """The result for people."""
    from recap_fast.export.job import CAPTIONS, SAMPLES, SKIPPED

    counts = result.counts
    there = f", {result.already:,} already there" if result.already else ""
    without = counts[SAMPLES] - counts[CAPTIONS]
    skipped = {name.removeprefix(SKIPPED): count for name, count in counts.items() if name.startswith(SKIPPED)}
    lines = [
        f"shards   {result.shards:,} exported{there}",
        f"samples  {counts[SAMPLES]:,}" + (f", {without:,} of them without a caption" if without else ""),
    ]
    if skipped:
        listed = ", ".join(f"{flag} {count:,}" for flag, count in sorted(skipped.items()))
        lines.append(f"skipped  {sum(skipped.values()):,}  ({listed})")
    if result.verified:
        lines.append(f"verified {result.verified}")
    if result.shards or result.already:
        lines.append(f"files    {result.folder}")
    return [*lines, *_describe_missing(result), *result.advice]


def _describe_missing(result: "ExportResult") -> Iterator[str]:
    """The shards that were not exported, and what to do."""
    if num := len(result.problems):
        yield from (f"problem: {problem}" for problem in result.problems[:MAX_NAMES])
        left = num - MAX_NAMES
        more = f" {left:,} more {'is' if left == 1 else 'are'} not listed." if left > 0 else ""
        yield (
            f"{counted(num, 'shard')} not exported.{more} If the inputs have moved, add --relocate OLD=NEW. Then run "
            "the same command again."
        )
    if num := len(result.unfinished):
        named = ", ".join(result.unfinished[:MAX_NAMES]) + (" ..." if num > MAX_NAMES else "")
        yield f"{counted(num, 'shard')} not finished, and so not exported: {named}. Finish the run, then export again."
