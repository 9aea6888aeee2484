"""`recap-fast status`."""

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from recap_fast.cli import options
from recap_fast.cli.command import Command, group, option
from recap_fast.cli.progress import bar
from recap_fast.text import counted

if TYPE_CHECKING:
    from recap_fast.write.status import Status
    from recap_fast.write.workers import Work, Worker

MAX_WORKERS, MAX_PROMPTS = 20, 10
"""Most processes, and prompts, that people are shown; --json has all."""


@click.command(cls=Command, short_help="Show how far an output is, and who is at work on it.")
@click.argument("output", type=options.OUTPUT)
@group("Output", option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines."))
def status(output: str, as_json: bool) -> None:
    """Shows how far the folder OUTPUT is and who is at work on it, from any machine, during a run or after.

    The last line says what to do next.
    """
    from recap_fast.write.output_folder import OutputFolder
    from recap_fast.write.status import find_status

    with bar("reading") as shown:
        found = find_status(OutputFolder.at(output), shown.show)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else "\n".join(_describe(found, output)))


def _describe(s: "Status", output: str) -> Iterator[str]:
    """The lines for people."""
    from recap_fast.launch.progress_line import duration
    from recap_fast.write.usage import rates

    counts = [(s.ended["complete"], "done"), (s.ended["truncated"], "truncated"), (s.ended["failed"], "failed")]
    counts += [(s.in_work, "in work"), (s.left, "left")]
    listed = ", ".join(f"{count:,} {what}" for count, what in counts if count or what == "done")
    yield f"shards     {s.num_shards:,}: {listed}"
    failed = ", ".join(f"{count:,} {status}" for status, count in s.failed.most_common())
    yield f"rows       {s.rows:,} in shards that ended"
    yield f"captioned  {s.captioned:,}"
    yield from _captions(s)
    yield f"failed     {s.failed.total():,}" + (f"  ({failed})" if failed else "")
    if any(each.work.images_per_s is not None for each in s.at_work):
        eta = "" if s.eta_s is None else f", ETA {duration(s.eta_s)}"
        yield f"rate       {s.images_per_s:.1f} images/s over the last minutes{eta}"
    if s.usage:
        times = ", ".join(f"{device} for {duration(used.seconds)}" for device, used in s.usage.items())
        found = ", ".join(map(str, rates(s.usage)))
        yield f"held       {times}" + (f": {found}" if found else "")
    yield from _shown([_at_work(each) for each in s.at_work])
    yield from _shown([_silent(each) for each in s.silent])
    yield _advice(s, shlex.quote(output))


def _captions(s: "Status") -> Iterator[str]:
    if s.prompts:
        more = " ..." if len(s.prompts) > MAX_PROMPTS else ""
        drawn = " (an image gets some of them, drawn)" if s.is_drawn else ""
        yield f"captions   {s.captions_per_image:,} an image, of {', '.join(s.prompts[:MAX_PROMPTS])}{more}{drawn}"


def _shown(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:MAX_WORKERS]
    if len(lines) > MAX_WORKERS:
        yield f"           and {len(lines) - MAX_WORKERS:,} more: --json has all"


def _at_work(worker: "Worker") -> str:
    from recap_fast.launch.progress_line import duration

    work = worker.work
    done = f"{work.state} for {duration(work.held_s + worker.silent_s)}, {counted(work.rows, 'row')}"
    rate = "" if work.images_per_s is None else f", {work.images_per_s:.1f} images/s"
    return f"worker     {_who(work)}: {done}{rate}{_shards(work)}"


def _silent(worker: "Worker") -> str:
    from recap_fast.launch.progress_line import duration

    return f"silent     {_who(worker.work)}: last heard of {duration(worker.silent_s)} ago{_shards(worker.work)}"


def _who(work: "Work") -> str:
    return ", ".join(filter(None, (f"{work.host} process {work.pid}", f"part {work.part}", work.device)))


def _shards(work: "Work") -> str:
    from recap_fast.write.names import some

    return f", shards {some(work.shards)}" if work.shards else ""


def _advice(s: "Status", output: str) -> str:
    """What to do next."""
    if s.state == "running":
        verb = "process is" if len(s.at_work) == 1 else "processes are"
        missing = f" Nobody has the other {counted(s.unclaimed, 'shard')}: start the parts that are missing."
        return f"Running: {len(s.at_work):,} {verb} at work.{missing if s.unclaimed else ''}"
    if s.state == "finished":
        what = "its 1 shard is" if s.num_shards == 1 else f"all {s.num_shards:,} shards are"
        return f"Finished: {what} done. Prove it with: recap-fast verify {output}"
    if s.state == "failed":
        what = f"{counted(s.num_shards - s.ended['complete'], 'shard')} could not be read whole"
        return f"{what}: run the same command again. Why, says: recap-fast failures {output}"
    verb = "is" if s.left == 1 else "are"
    left = f", and {counted(s.left, 'shard')} {verb} not done" if s.left else ""
    return f"Nobody is at work{left}: run the same command to go on."
