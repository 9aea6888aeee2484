"""`recap-fast plan`."""

import json
import shlex
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recap_fast.cli import options
from recap_fast.cli.command import Command, group, option
from recap_fast.cli.messages import quiet
from recap_fast.cli.progress import bar
from recap_fast.text import counted, sized

if TYPE_CHECKING:
    from recap_fast.launch.estimate import Estimate
    from recap_fast.shards.census import Census, Extrapolation

ORIGINS = {
    "stats": "by img2dataset's _stats.json",
    "footer": "by the footers of Parquet files",
    "rows": "by the rows of Parquet files, each of which may have several images",
    "listing": "by the listings of folders",
    "headers": "by the headers of tars",
}
MAX_PROBLEMS = 3
FARTHEST_S = 100 * 365 * 86400.0
"""A later end has no date."""


@click.command(cls=Command, short_help="Say what a run will take, before it: hours, dollars, disk.")
@group(
    "Input",
    options.inputs("Tars, Parquet files or folders, given as for run. Repeatable.", required=True),
    options.image_column,
    options.images,
    options.image_key,
    options.read_timeout,
)
@group(
    "Speed",
    option("--images-per-second", type=float, metavar="X", help="Images/s of one GPU.  [default: as measured]"),
    option("--bench", type=options.FILE, help="Take images/s from this file, which `bench --json` wrote."),
    option("--engine", type=options.FOLDER, metavar="DIR", help="Take images/s from what `tune` has stored here."),
    option("--workers", type=int, default=1, metavar="N", help="GPUs that work at the same time."),
    option("--price-per-hour", type=float, metavar="DOLLARS", help="Price of one GPU for an hour."),
)
@group(
    "Output",
    option(
        "--output",
        "--output-folder",
        type=options.OUTPUT,
        metavar="DIR",
        help="Leave out the shards that are done in this folder.",
    ),
    option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines."),
)
def plan(as_json: bool, **given: Any) -> None:
    """Says what a run will take before it begins: images, GPU-hours, days, dollars and disk.

    No image is read. Numbers that would take long to count are estimated; the lines say which, and from how much.
    """
    from recap_fast.launch.estimate import estimate
    from recap_fast.launch.speeds import find_speed
    from recap_fast.records import Selection
    from recap_fast.shards.patience import patience

    engine = given["engine"]
    speed = find_speed(given["images_per_second"], given["bench"], engine)
    selection = Selection(given["image_column"], None, given["images"], given["image_key"])
    # `run` warns of what is odd within a tar when it reads it
    with patience(given["read_timeout"]), quiet("recap_fast.shards.tar"), bar("looking at shards") as shown:
        found = estimate(
            given["shards"],
            selection,
            output=given["output"],
            speed=speed,
            workers=given["workers"],
            price_per_hour=given["price_per_hour"],
            progress=shown.show,
        )
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
        return
    for name, text in describe(found, engine, datetime.now().astimezone()):
        click.echo(f"{name:<11}{text}")
    click.echo(conclude(found))


def describe(found: "Estimate", engine: Path | None, now: datetime) -> Iterator[tuple[str, str]]:
    """The lines for people, each with its name: what there is, how it was found, and what it takes."""
    total, done = found.census.total, found.done
    about = "at least " if "rows" in found.census.counted else ""
    about = "about " if found.census.num_estimated else about
    yield "shards", f"{total.shards:,} to do" + (f", {done.shards:,} done" if done.shards else "")
    yield "images", f"{about}{total.images:,} to do" + (f", {done.rows:,} done" if done.shards else "")
    yield "bytes", _size(total.size_bytes)
    yield from _sources(found.census)
    yield "speed", _speed(found, engine)
    if found.gpu_hours is not None and found.seconds is not None:
        yield "GPU-hours", _number(found.gpu_hours)
        yield "time", _time(found.seconds, found.workers, now)
        if found.dollars is not None and found.dollars_per_million is not None:
            yield "cost", f"${found.dollars:,.2f}; ${found.dollars_per_million:,.2f} for a million images"
    rows = f"{counted(done.rows, 'row')} that are done" if done.rows else "the output of the demo"
    yield "output", f"{_size(found.output_bytes)}, at {found.row_bytes:.0f} bytes a row as in {rows}"


def _sources(census: "Census") -> Iterator[tuple[str, str]]:
    for origin, tally in census.counted.items():
        yield "counted", f"{counted(tally.images, 'image')} in {counted(tally.shards, 'shard')} {ORIGINS[origin]}"
    for each in census.estimated:
        yield "estimated", _estimated(each)
    if census.unreadable.shards:
        yield "unreadable", f"{counted(census.unreadable.shards, 'shard')}, which will have no rows"
    for problem in census.problems[:MAX_PROBLEMS]:
        yield "problem", f"{problem.url} {problem.text}"
    if more := census.problems[MAX_PROBLEMS:]:
        yield "problem", f"{len(more):,} more"


def _estimated(each: "Extrapolation") -> str:
    shards, sample = counted(each.tally.shards, "tar"), each.sample
    if not sample.shards:
        return f"nothing in {shards}: none of those that were looked at could be counted"
    margin = "" if each.margin is None else f", give or take {max(each.margin, 0.001):.1%}"
    source = f"{counted(sample.images, 'image')} in {_size(sample.size_bytes)} of {counted(sample.shards, 'tar')}"
    return f"{counted(each.tally.images, 'image')} in {shards} by their bytes, from {source}{margin}"


def _speed(found: "Estimate", engine: Path | None) -> str:
    if found.speed is not None:
        return f"{found.speed.images_per_s:,.4g} images/s on one GPU: {found.speed.origin}"
    tune = f"`recap-fast tune --engine {'DIR' if engine is None else shlex.quote(str(engine))}`"
    if engine is not None:
        return f"unknown: this engine was not tuned. Run {tune} on the card, or give --images-per-second."
    return f"unknown: run {tune} on the card and give --engine DIR, or give --images-per-second."


def _time(seconds: float, workers: int, now: datetime) -> str:
    from recap_fast.launch.progress_line import duration

    text = f"{duration(seconds)} with {counted(workers, 'worker')}"
    if seconds > FARTHEST_S:
        return text
    return f"{text}; begun now, it ends at {now + timedelta(seconds=seconds):%Y-%m-%d %H:%M}"


def conclude(found: "Estimate") -> str:
    """Which of these numbers are estimates, and from how much."""
    images, census = found.census.total.images, found.census
    parts = []
    if census.num_estimated:
        sample = sum(each.sample.size_bytes for each in census.estimated)
        unseen = sum(each.tally.size_bytes for each in census.estimated)
        share = census.num_estimated / images
        parts.append(f"{share:.1%} of the images, from {_size(sample)} for {_size(unseen)}")
    if "rows" in census.counted:
        parts.append(f"{counted(census.counted['rows'].images, 'row')} of Parquet files, as one image each")
    if found.speed is not None:
        what = "hours" if found.dollars is None else "hours and cost"
        parts.append(f"{what}, from images/s and without the time to start")
    parts.append("the output, from the bytes of a row")
    is_exact = not census.estimated and "rows" not in census.counted
    start = "All images were counted. " if is_exact else ""
    return f"{start}Estimated: {'; '.join(parts)}."


def _size(num_bytes: int) -> str:
    return sized(num_bytes) if num_bytes >= 1 << 20 else f"{num_bytes:,} bytes"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
