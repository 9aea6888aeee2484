"""The images of a gallery as small JPEGs within the page, each with the questions that were asked of it."""

import base64
import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from PIL import Image

from recap_fast.addresses import public_url
from recap_fast.decode import noise
from recap_fast.decode.gate import RefusedImageError, take_over_pillow_checks
from recap_fast.decode.pillow import decode_rgb
from recap_fast.defaults import MAX_IMAGE_PIXELS
from recap_fast.errors import ConfigError, RecapError
from recap_fast.joined import JoinedOutput
from recap_fast.records import CRASHED, OK, Sample
from recap_fast.report.beside import Place
from recap_fast.text import message_of
from recap_fast.write.opening import read_lists

MAX_SIDE, QUALITY = 400, 72
"""Longest side in pixels, and quality, of the JPEGs: a card is at most some 400 pixels wide."""


Parsed: TypeAlias = "Sequence[tuple[str, str | None]]"
"""A question as `prompt.parse_question` gives it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of the gallery."""

    source: str | None
    """A data URI; None where it cannot be shown."""
    problem: str | None = None
    """Why not."""
    filled: Mapping[str, str] = field(default_factory=dict)
    """The questions that have fields, as they are with the sample's values, by what they are without."""


@dataclass(slots=True)
class Pictures:
    """The images that were asked for, and why others are missing."""

    found: dict[Place, Picture] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """For each shard, why its images cannot be read, and where they were."""


def read_pictures(
    joined: JoinedOutput, wanted: Mapping[str, set[int]], progress: Callable[[int], object] = lambda _: None
) -> Pictures:
    """Reads these indices of these shards, each shard once. An image or a shard that cannot be read is no error.

    `progress` is told after each shard how many are done.
    """
    take_over_pillow_checks()
    pictures = Pictures()
    questions = _parse(find_questions(joined))
    try:
        shards = {shard.name: shard for shard in joined.shards}
    except (RecapError, OSError) as error:
        if (joined.patterns or joined.relocate) and isinstance(error, ConfigError):
            raise
        pictures.problems = dict.fromkeys(wanted, message_of(error))
        return pictures
    for done, (name, indices) in enumerate(wanted.items(), 1):
        shard = shards.get(name)
        if shard is None:
            pictures.problems[name] = f"it was {public_url(joined.run.shards[name])}, and is not among --shards"
            continue
        try:
            for row, sample in joined.pairs(shard, ["index", "status"], indices):
                pictures.found[Place(name, row["index"])] = _picture(row["status"], sample, questions)
                if row["status"] == OK != sample.status:  # a loose image that was there
                    pictures.problems.setdefault(name, f"{sample.error}; it was in {public_url(shard.url)}")
        except (RecapError, OSError) as error:
            reason, where = message_of(error), public_url(shard.url)
            pictures.problems[name] = reason if where in reason else f"{reason}; it was {where}"
        progress(done)
    return pictures


def find_questions(joined: JoinedOutput) -> tuple[str, ...]:
    """All that a run may have asked of an image, its fields unfilled."""
    prompts = read_lists(joined.output, joined.run).prompts
    listed = dict.fromkeys(question for each in prompts for question in each.values())
    return tuple(listed) or (str(joined.run.fingerprint.get("prompt") or ""),)


def _parse(questions: Sequence[str]) -> dict[str, Parsed]:
    """The questions that have fields, with their parts. One that no run can ask stays as it is."""
    from recap_fast.generate.prompt import parse_question

    found: dict[str, Parsed] = {}
    for question in questions:
        if "{" in question or "}" in question:
            with contextlib.suppress(ConfigError):
                found[question] = parse_question(question)
    return found


def _picture(status: str, sample: Sample, questions: Mapping[str, Parsed]) -> Picture:
    asked = {question: _fill(parts, sample) for question, parts in questions.items()}
    if status == CRASHED:
        return Picture(None, "decoding it ended the process", asked)
    if not sample.image:
        return Picture(None, sample.error or "there is no image", asked)
    try:
        with noise.dropped():
            return Picture(thumbnail(decode_rgb(sample.image, MAX_IMAGE_PIXELS)), filled=asked)
    except RefusedImageError as error:
        return Picture(None, error.outcome.error, asked)


def thumbnail(image: Image.Image) -> str:
    """A small JPEG of an RGB image, as a data URI."""
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _fill(parts: Parsed, sample: Sample) -> str:
    """The question of these parts with the sample's fields in it."""
    from recap_fast.generate.prompt import SampleFields

    fields = SampleFields(sample)
    return "".join(text + (fields[name] or "" if name else "") for text, name in parts)
