"""`recap-fast export`."""

import sys
from collections.abc import Iterator, Sequence
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


@click.command(cls=Command, short_help="Write captions in the formats that training reads.", epilog=EXAMPLES)
@click.argument("output", type=options.OUTPUT)
@group(
    "Output",
    option("--to", type=click.Choice(KINDS), required=True, help="Format to write."),
    option("--target", type=options.FOLDER, metavar="DIR", help="Local folder to write to."),
    option("--beside", is_flag=True, help="For txt: write beside the images, not to --target."),
    option("--extension", default=".txt", metavar=".EXT", help="For txt: extension of the files."),
    option("--columns", metavar="NAME,...", help="Also export these columns of the output."),
    option(
        "--caption-in",
        type=click.Choice(["json", "txt"]),
        help="For webdataset: the file that gets the caption.  [default: json; txt with --mix-p]",
    ),
    option("--images/--no-images", default=True, help="For parquet and hub: include the images."),
    option("--repo", metavar="NAME/DATASET", help="For hub: the dataset to upload to."),
    option("--private", is_flag=True, help="For hub: make a new dataset private."),
    option("--license", metavar="NAME", help="For hub: the Hub's name of the license.  [default: the model's]"),
    option("--overwrite", is_flag=True, help="Replace files that this export did not write."),
    option("--workers", type=int, metavar="N", help="Number of processes.  [default: one for each CPU, up to 4]"),
    option("--verify/--no-verify", default=True, help="Read the files back and check them."),
)
@group(
    "Captions",
    option("--caption", metavar="NAME", help="Of several captions, take that of this prompt.  [default: the first]"),
    option("--skip", metavar="FLAG,...", help="Leave out images with these flags. failed means without a caption."),
    option(
        "--mix-p", type=float, metavar="P", help="Write one caption: the original with probability P, else the new one."
    ),
    option("--sub-caption", type=click.Choice(["first", "random"]), help="Write one sentence of each new caption."),
    option("--seed", type=int, default=0, metavar="N", help="Random seed for --mix-p and --sub-caption random."),
)
@group(
    "Input",
    options.inputs("Export these inputs only, from here. Repeatable.  [default: all, where the run found them]"),
    options.relocate,
    options.read_timeout,
)
def export(**given: Any) -> None:
    """Writes the captions in the folder OUTPUT in a format that training reads. OUTPUT itself does not change.

    Only finished shards are exported; the others are named. Run the same command again to go on where it stopped, or
    after OUTPUT has changed.

    Exit codes: 0 complete; 1 a shard was not exported; 2 usage; 75 stopped by a signal.
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
    if result.truncated:
        yield f"{_named(result.truncated)} not read to the end by the run, so rows are missing. Start the run again."
    if result.unfinished:
        yield f"{_named(result.unfinished)} not finished, and so not exported. Finish the run, then export again."


def _named(shards: Sequence[str]) -> str:
    more = " ..." if len(shards) > MAX_NAMES else ""
    return f"{counted(len(shards), 'shard')} ({', '.join(shards[:MAX_NAMES])}{more})"
