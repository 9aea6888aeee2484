"""`recap-fast replay`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recap_fast.cli import options
from recap_fast.cli.command import Command, group, option
from recap_fast.cli.messages import quiet
from recap_fast.cli.progress import bar
from recap_fast.errors import ExitCode
from recap_fast.text import counted

if TYPE_CHECKING:
    from recap_fast.replay.divergence import Choice, Tie
    from recap_fast.replay.replay import Compared, Divergence, Replay
    from recap_fast.replay.stored import Answer, Said

SHOWN = 60
"""Characters of a text that a line shows."""


@click.command(cls=Command, short_help="Make the captions of one image again and compare them.")
@click.argument("output", type=options.OUTPUT)
@click.argument("name", metavar="KEY|SHARD:INDEX")
@group(
    "Input",
    options.engine,
    options.inputs("Where the images are now. Repeatable.  [default: where the run found them]"),
    options.relocate,
    options.read_timeout,
    options.max_image_pixels,
)
@group(
    "Speed",
    options.device,
    option(
        "--decoder",
        type=click.Choice(["dali", "pillow"]),
        help="Library that decodes images.  [default: that of the run]",
    ),
)
@group("Output", option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines."))
def replay(
    output: str,
    name: str,
    engine: Path,
    shards: tuple[str, ...],
    relocate: tuple[str, ...],
    read_timeout: float,
    max_image_pixels: int | None,
    device: str,
    decoder: str | None,
    as_json: bool,
) -> None:
    """Makes the captions of one image of the folder OUTPUT again, with the settings of the run, and compares each with
    that of the row, token by token.

    If two differ, it shows where they part, and how close the choice between the two tokens was.

    Name the row by SHARD:INDEX, by its key, or by the name of its file.

    Exit codes: 0 the same; 1 the image or the engine cannot be used; 2 usage; 4 another caption.
    """
    from recap_fast.joined import JoinedOutput
    from recap_fast.replay.place import find_place
    from recap_fast.replay.replay import replay as make_again
    from recap_fast.replay.settings import settings_of
    from recap_fast.shards.patience import patience
    from recap_fast.write.output_folder import OutputFolder

    joined = JoinedOutput.open(OutputFolder.at(output), shards, relocate)
    marks = joined.run.fingerprint
    config = settings_of(marks, engine, device=device, decoder=decoder, max_image_pixels=max_image_pixels)
    with bar("looking") as shown:
        place = find_place(joined, name, shown.show)
    with quiet(), patience(read_timeout):  # `run` gave its warnings when it read the same inputs
        found = make_again(joined, place, config)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else "\n".join(_describe(found)))
    sys.exit(ExitCode.COMPLETE if found.is_same else ExitCode.GAP)


def _describe(found: "Replay") -> Iterator[str]:
    """The lines for people; one if all is the same."""
    row, now = found.row, found.now
    if found.is_same:
        yield _describe_same(found)
        return
    if found.captions and row.status == now.status:
        if all(each.is_same for each in found.captions):
            what = "re_caption, finish_reason or num_tokens is not the first one's"
            yield f"{found.place} has the same captions again, but its {what}."
        for each in found.captions:
            yield from () if each.is_same else _describe_one(found, each)
        if same := [each.label for each in found.captions if each.is_same]:
            yield f"  same         {', '.join(same)}"
    elif found.divergence is None:
        yield f"{found.place} is not the same: the row {_says(row)}, but now the image {_says(now)}."
    else:
        yield f"{found.place} has another caption now. It differs after {_count(found.divergence)}."
        yield from _describe_divergence(row.said[""], now.said[""], found.divergence)
    for made_with in found.made_with:
        yield f"  made on      {made_with.get('machine')}, commit {made_with.get('commit')}"
    if found.provenance:
        yield f"  now on       {found.provenance['machine']}, commit {found.provenance['commit']}"
    for note in found.notes:
        yield f"  note         {note}"


def _describe_same(found: "Replay") -> str:
    row, labels = found.row, [each.label for each in found.captions]
    if row.num_tokens is None:
        return f"{found.place} fails again with {row.status}: {found.now.error}"
    total = counted(sum(each.num_tokens or 0 for each in row.said.values()), "token")
    if len(labels) > 1:
        listed = ", ".join(labels)
        return f"{found.place} has the same {len(labels)} captions again ({listed}), all of their {total}."
    return f"{found.place} has the same caption{''.join(f' of {each}' for each in labels)} again, all of its {total}."


def _describe_one(found: "Replay", one: "Compared") -> Iterator[str]:
    """The lines about one of several captions that is another one now."""
    if one.row is None or one.now is None:
        who, other = ("the row has", "now there is") if one.now is None else ("now there is", "the row has")
        yield f"{found.place}: {who} a caption of {one.label}, and {other} none."
    elif one.divergence is None:
        yield f"{found.place} has another caption of {one.label} now."
    else:
        yield f"{found.place} has another caption of {one.label} now. It differs after {_count(one.divergence)}."
        yield from _describe_divergence(one.row, one.now, one.divergence)


def _count(parted: "Divergence") -> str:
    return counted(parted.num_alike, "token")


def _says(answer: "Answer") -> str:
    if answer.caption is None:
        return f"has the status {answer.status} ({answer.error})"
    return f"has the caption {_quoted(answer.caption)}"


def _describe_divergence(row: "Said", now: "Said", parted: "Divergence") -> Iterator[str]:
    yield f"  alike        {_quoted(parted.alike, from_end=True)}"
    for who, said in (("row", row), ("now", now)):
        rest = said.text.removeprefix(parted.alike)
        yield f"  {who}          {_quoted(rest)}, {said.num_tokens} tokens, {said.finish_reason}"
    if parted.tie is None:
        yield f"  margin       not known: {parted.note}"
    else:
        yield from _describe_tie(parted.tie)


def _describe_tie(tie: "Tie") -> Iterator[str]:
    yield f"  row's token  {_token(tie.row)}"
    yield f"  token now    {_token(tie.now)}"
    yield f"  margin       {tie.margin:.6g} between the logits, {tie.steps:.3g} steps of {tie.precision} at their size"
    if tie.draw is not None:
        yield f"  drawn        {tie.draw:.7f}"


def _token(choice: "Choice") -> str:
    line = f"{_quoted(choice.text)} ({choice.token}), logit {choice.logit:.6f}, probability {choice.probability:.4g}"
    if choice.drawn_by is not None:
        line += ", drawn by {:.7f} to {:.7f}".format(*choice.drawn_by)
    return line


def _quoted(text: str, *, from_end: bool = False) -> str:
    """A text on one line that any terminal can show; only its beginning or its end if it is long."""
    if len(text) > SHOWN:
        text = f"... {text[-SHOWN:]}" if from_end else f"{text[:SHOWN]} ..."
    return f'"{text}"' if text.isprintable() else repr(text)
