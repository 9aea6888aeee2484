"""`recap-fast verify`."""

import sys
from pathlib import Path

import click

from recap_fast.cli import options
from recap_fast.cli.messages import quiet
from recap_fast.errors import ExitCode


@click.command()
@click.argument("output", type=options.FOLDER)
@click.option("--shards", "--input", multiple=True, help="Count the samples of these inputs again; as given to run.")
@click.option("--image-column", help="As given to run; only with --shards.")
def verify(output: Path, shards: tuple[str, ...], image_column: str | None) -> None:
    """Proves that the folder OUTPUT of a run is whole: every sample of every shard has one row, every file its hash.

    Exit codes: 0 proven; 4 a gap was found, each is named.
    """
    from recap_fast.api import verify as check

    with quiet():  # `run` gave its warnings when it read the same inputs
        verdict = check(output, shards, image_column=image_column)
    failed = ", ".join(f"{count:,} {status}" for status, count in verdict.failed.most_common())
    click.echo(f"shards     {verdict.num_shards:,}")
    click.echo(f"rows       {verdict.rows:,}")
    click.echo(f"captioned  {verdict.captioned:,}")
    click.echo(f"failed     {verdict.failed.total():,}" + (f"  ({failed})" if failed else ""))
    for note in verdict.notes:
        click.echo(f"note: {note}")
    for fault in verdict.faults:
        click.echo(f"fault: {fault.shard} {fault.sentence}")
    if num := len(verdict.faults):
        click.echo(
            f"Not proven: {num:,} fault{'s' * (num > 1)}. "
            "Run again, after what is said above: shards that are missing or unfinished are redone."
        )
        sys.exit(ExitCode.GAP)
    some = f" for {verdict.num_recounted} of them" if verdict.num_recounted < verdict.num_shards else ""
    counted = f", counted against the inputs{some}" if shards else ""
    click.echo(f"Proven: every sample has exactly one row, every file is as it was written{counted}.")
