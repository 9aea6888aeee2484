"""`recap-fast verify`."""

import sys
from pathlib import Path

import click

from recap_fast.cli import options
from recap_fast.cli.command import Command, group, option
from recap_fast.cli.messages import quiet
from recap_fast.cli.progress import bar
from recap_fast.errors import ExitCode


@click.command(cls=Command, short_help="Prove that an output folder is whole.")
@click.argument("output", type=options.FOLDER)
@group(
    "Input",
    option(
        "--shards",
        "--input",
        multiple=True,
        type=options.INPUT,
        help="Read these inputs again, and compare each row with its image. Repeatable.",
    ),
    options.relocate,
    options.read_timeout,
)
def verify(output: Path, shards: tuple[str, ...], relocate: tuple[str, ...], read_timeout: float) -> None:
    """Proves that the folder OUTPUT is whole: every image has one row, and every file is as it was written.

    Exit codes: 0 proven; 1 an input cannot be reached; 2 usage; 4 a gap was found: each is named.
    """
    from recap_fast.api import verify as check
    from recap_fast.records import show_left_out

    with quiet(), bar("checking shards") as shown:  # `run` gave its warnings when it read the same inputs
        verdict = check(output, shards, relocate=relocate, read_timeout=read_timeout, progress=shown.show)
    failed = ", ".join(f"{count:,} {status}" for status, count in verdict.failed.most_common())
    click.echo(f"shards     {verdict.num_shards:,}")
    click.echo(f"rows       {verdict.rows:,}")
    click.echo(f"captioned  {verdict.captioned:,}")
    click.echo(f"failed     {verdict.failed.total():,}" + (f"  ({failed})" if failed else ""))
    if verdict.left_out:
        click.echo(f"note: some of the input has no row: {show_left_out(verdict.left_out)}")
    for note in verdict.notes:
        click.echo(f"note: {note}")
    for fault in verdict.faults:
        click.echo(f"fault: {fault.shard} {fault.sentence}")
    if num := len(verdict.faults):
        click.echo(
            f"Not proven: {num:,} fault{'s' * (num > 1)}. "
            "Follow the advice above, if there is any, and run again: shards that are missing or unfinished are redone."
        )
        sys.exit(ExitCode.GAP)
    some = f"in {verdict.num_compared:,} of {verdict.num_shards:,} shards "
    some = some if verdict.num_compared < verdict.num_shards else ""
    compared = f", and {some}each row is of the image that it names" if shards else ""
    click.echo(f"Proven: every image has exactly one row, every file is as it was written{compared}.")
