"""`recap-fast report`."""

from pathlib import Path

import click

from recap_fast.cli import options
from recap_fast.cli.command import Command, group, option
from recap_fast.cli.messages import check_writable, quiet, writing
from recap_fast.cli.progress import bar
from recap_fast.text import counted


@click.command(cls=Command, short_help="Write a page that shows what the captions are like.")
@click.argument("output", type=options.OUTPUT)
@group(
    "Input",
    options.inputs("Where the images are now.  [default: where the run found them]"),
    options.relocate,
    options.read_timeout,
    option("--baseline", metavar="OTHER", type=options.OUTPUT, help="Compare with another output of the same images."),
)
@group(
    "Output",
    option("--html", type=options.FILE, metavar="FILE", help="File to write.  [default: OUTPUT/report.html]"),
    option("--num", type=click.IntRange(1, 100), default=6, metavar="N", help="Number of images in each section."),
    option("--seed", type=int, default=0, metavar="N", help="Random seed for the choice of images."),
)
def report(
    output: str,
    shards: tuple[str, ...],
    relocate: tuple[str, ...],
    read_timeout: float,
    baseline: str | None,
    html: Path | None,
    num: int,
    seed: int,
) -> None:
    """Writes a page about the captions in the folder OUTPUT: images beside captions, lengths, words, rates.

    The page is one HTML file. It loads nothing and has no scripts, so you can mail it. The command prints its path.
    """
    from recap_fast.atomic import atomic_write
    from recap_fast.joined import JoinedOutput
    from recap_fast.report.place import page_path
    from recap_fast.report.report import make_report
    from recap_fast.shards.patience import patience
    from recap_fast.write.output_folder import OutputFolder

    folder = OutputFolder.at(output)
    path = page_path(folder, html)
    joined = JoinedOutput.open(folder, shards, relocate)
    other = None if baseline is None else JoinedOutput.open(OutputFolder.at(baseline))
    check_writable("--html", path)
    with quiet(), bar("reading") as shown, patience(read_timeout):
        made = make_report(joined, other, num=num, seed=seed, progress=shown.show)
    with writing("--html", path):
        atomic_write(path, made.html.encode())
    if made.problems:
        name, why = next(iter(made.problems.items()))
        others = len(made.problems) - 1
        more = f", and those of {counted(others, 'other shard')}" if others else ""
        click.echo(
            f"note: some images are not on the page: those of shard {name} ({why}){more}. If they have moved, add "
            "--relocate OLD=NEW.",
            err=True,
        )
    if made.joined is not None and not made.joined.rows:
        click.echo("note: no image is in both outputs. Images are compared by uid, then by SHA-256.", err=True)
    click.echo(path)
