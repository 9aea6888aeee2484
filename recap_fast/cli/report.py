"""`recap-fast report`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recap_fast.cli import options
from recap_fast.cli.command import Command, group, option
from recap_fast.cli.messages import check_writable, quiet, writing
from recap_fast.cli.progress import bar
from recap_fast.errors import ConfigError
from recap_fast.text import counted

if TYPE_CHECKING:
    from recap_fast.write.output_folder import OutputFolder

NAME = "report.html"


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
    from recap_fast.report.report import make_report
    from recap_fast.shards.patience import patience
    from recap_fast.write.output_folder import OutputFolder

    folder = OutputFolder.at(output)
    path = _path(folder, html)
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


def _path(output: "OutputFolder", html: Path | None) -> Path:
    """The path of the page. Raises ConfigError for a folder where a run keeps its files."""
    from recap_fast.addresses import is_remote
    from recap_fast.write.output_folder import FOLDERS

    is_local = not is_remote(output.address)
    path = html or (Path(output.address) / NAME if is_local else Path(NAME))
    if is_local:
        for folder in FOLDERS:
            if (Path(output.address) / folder).resolve() in path.resolve().parents:
                raise ConfigError(f"--html {path}: a run keeps its own files there. Give a path outside of {folder}/.")
    if html and path.is_file() and not _is_page(path):
        raise ConfigError(f"--html {path} is there and is no report: it is not replaced. Give another path.")
    return path


def _is_page(path: Path) -> bool:
    """Whether a file is a report, or empty: only such a file is replaced."""
    from recap_fast.report.rendering import MARK, MARK_BYTES

    try:
        with path.open("rb") as file:
            begin = file.read(MARK_BYTES)
    except OSError as error:
        raise ConfigError(f"--html {path} cannot be read ({error.strerror or error}): give another path.") from error
    return not begin or MARK.encode() in begin
