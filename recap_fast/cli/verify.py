"""`recap-fast verify`."""

import json
import sys
from typing import TYPE_CHECKING

import click

from recap_fast.cli import options
from recap_fast.cli.command import Command, group, option
from recap_fast.cli.messages import quiet
from recap_fast.cli.progress import bar
from recap_fast.errors import ExitCode
from recap_fast.text import counted

if TYPE_CHECKING:
    from recap_fast.write.verify import Verdict


@click.command(cls=Command, short_help="Prove that an output folder is whole.")
@click.argument("output", type=options.OUTPUT)
@group(
    "Input",
    options.inputs("Read these inputs again, and compare each row with its image. Repeatable."),
    options.relocate,
    options.read_timeout,
)
@group("Output", option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines."))
def verify(output: str, shards: tuple[str, ...], relocate: tuple[str, ...], read_timeout: float, as_json: bool) -> None:
    """Proves that the folder OUTPUT is whole: every image has one row, and every file is as it was written.

    Exit codes: 0 proven; 1 an input cannot be reached; 2 usage; 4 a gap was found: each is named.
    """
    from recap_fast.api import verify as check

    with quiet(), bar("verifying") as shown:  # `run` gave its warnings when it read the same inputs
        verdict = check(output, shards, relocate=relocate, read_timeout=read_timeout, progress=shown.show)
    click.echo(json.dumps(verdict.as_json(), indent=2) if as_json else _describe(verdict, bool(shards)))
    sys.exit(ExitCode.GAP if verdict.faults else ExitCode.COMPLETE)


def _describe(verdict: "Verdict", is_compared: bool) -> str:
    """The verdict for people."""
    from recap_fast.text import show_left_out

    failed = ", ".join(f"{count:,} {status}" for status, count in verdict.failed.most_common())
    lines = [
        f"shards     {verdict.num_shards:,}",
        f"rows       {verdict.rows:,}",
        f"captioned  {verdict.captioned:,}",
        f"failed     {verdict.failed.total():,}" + (f"  ({failed})" if failed else ""),
    ]
    if verdict.left_out:
        lines.append(f"note: some of the input has no row: {show_left_out(verdict.left_out)}")
    lines += [f"note: {note}" for note in verdict.notes]
    lines += [f"fault: {fault.shard} {fault.sentence}" for fault in verdict.faults]
    if num := len(verdict.faults):
        remedy = "The same `recap-fast run` again redoes shards that are damaged or not finished."
        return "\n".join([*lines, f"Not proven: {counted(num, 'fault')}. {remedy}"])
    some = f"in {verdict.num_compared:,} of {verdict.num_shards:,} shards "
    some = some if verdict.num_compared < verdict.num_shards else ""
    compared = f", and {some}each row is of the image that it names" if is_compared else ""
    num = verdict.captions_per_image
    captions = f", every captioned one its {num:,} captions" if num > 1 else ""
    proven = f"Proven: every image has exactly one row{captions}, every file is as it was written{compared}."
    return "\n".join([*lines, proven])
