"""`recap-fast failures`."""

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from recap_fast.cli import options
from recap_fast.cli.command import Command, group, option
from recap_fast.text import counted

if TYPE_CHECKING:
    from recap_fast.write.failures import Failure


@click.command(cls=Command, short_help="List the images that have no caption, and why.")
@click.argument("output", type=options.OUTPUT)
@group(
    "Output",
    option("--status", metavar="STATUS,...", help="List only images of these statuses, such as truncated,corrupt."),
    option("--json", "as_json", is_flag=True, help="Print one JSON object a line."),
)
def failures(output: str, status: str | None, as_json: bool) -> None:
    """Lists the images in the folder OUTPUT that have no caption, and why.

    Shards that could not be read whole come last. The next run retries them, and with --retry-failed the images too.
    """
    from recap_fast.launch.config import parse_statuses
    from recap_fast.write.failures import Failure, failed_shards
    from recap_fast.write.failures import failures as find
    from recap_fast.write.names import some
    from recap_fast.write.output_folder import OutputFolder
    from recap_fast.write.run_file import read_run

    folder, num_images = OutputFolder.at(output), 0
    units = read_run(folder).units
    for failure in find(folder, parse_statuses("--status", status or "")):
        num_images += 1
        name = some([failure.file_name or failure.key or ""])
        name = name if failure.shard in units else f"{failure.shard}/{name}"
        click.echo(_json(failure) if as_json else f"{name}  {failure.status}: {failure.error}")
    shards = [] if status else failed_shards(folder)
    for report in shards:
        whole = Failure(report.shard, None, None, None, report.status, report.error)
        click.echo(_json(whole) if as_json else f"shard {report.shard}  {report.status}: {report.error}")
    if not as_json:
        click.echo(_summary(num_images, len(shards), status))


def _json(failure: "Failure") -> str:
    return json.dumps(dataclasses.asdict(failure))


def _summary(num_images: int, num_shards: int, status: str | None) -> str:
    """What is to be done."""
    if not num_images and not num_shards:
        return "Every image that is done has a caption." if status is None else f"No image has failed with {status}."
    found = [counted(num, what) for num, what in ((num_images, "image"), (num_shards, "shard")) if num]
    lines = ["", f"{' and '.join(found)} failed."]
    if num_images:
        lines.append("Replace the files that are damaged, and run again with --redo-changed.")
        lines.append(f"To retry the images as they are, run again with --retry-failed{f' {status}' if status else ''}.")
    if num_shards:
        lines.append("The next run retries the shards.")
    return "\n".join(lines)
