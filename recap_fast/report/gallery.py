"""The cards of a gallery: rows beside their images, of one output or of two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recap_fast.addresses import public_url
from recap_fast.records import OK
from recap_fast.report.beside import Joined, Place
from recap_fast.report.choice import Section
from recap_fast.report.contents import about_section
from recap_fast.report.differences import Marked, differences
from recap_fast.report.pictures import Picture, Pictures
from recap_fast.write.caption_lists import labelled

_BESIDE = {
    "random": ("Drawn at random", "Some of {:,} images that are in both outputs."),
    "longer": ("Captions that became longer", "{:,} captions have more words than those of the baseline."),
    "shorter": ("Captions that became shorter", "{:,} captions have fewer words than those of the baseline."),
    "only_this": ("Captioned in this output only", "{:,} images have no caption in the baseline."),
    "only_other": ("Captioned in the baseline only", "{:,} images have no caption in this output."),
}


@dataclass(frozen=True, slots=True)
class Card:
    """A row, its image if it can be had, and the questions that were asked of it."""

    row: Mapping[str, Any]
    picture: Picture | None
    questions: Mapping[str, str]
    """By the names of their prompts; that of a run's only prompt has none: ''."""
    captions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Where the row has a list of captions: all of them, by their labels."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """The row of the baseline, if the card compares two."""
    here: Marked | None = None
    """The words of this output's caption, if the card compares two; None without a caption."""
    there: Marked | None = None


@dataclass(frozen=True, slots=True)
class Gallery:
    """Some cards under a heading."""

    name: str
    title: str
    about: str
    total: int
    cards: tuple[Card, ...]


def places_of(sections: Sequence[Section]) -> set[Place]:
    """Where the rows of sections are."""
    return {_place(row) for section in sections for row in section.rows}


def galleries(sections: Sequence[Section], pictures: Pictures, question: str) -> list[Gallery]:
    """The sections as cards."""
    found = []
    for section in sections:
        title, about = ("", "") if section.name == "random" else about_section(section.name, section.total)
        cards = tuple(_card(row, pictures, question) for row in section.rows)
        found.append(Gallery(section.name, title, about, section.total, cards))
    return found


def galleries_beside(
    joined: Joined,
    here: Mapping[Place, Mapping[str, Any]],
    there: Mapping[Place, Mapping[str, Any]],
    pictures: Pictures,
    question: str,
) -> list[Gallery]:
    """The sections of two joined outputs as cards, the words that differ marked."""
    found = []
    for name, (total, pairs) in joined.sections.items():
        cards = [_pair(here[this], there[other], pictures, question) for this, other in pairs if this in here]
        title, about = _BESIDE[name]
        if cards:
            found.append(Gallery(name, title, about.format(total), total, tuple(cards)))
    return found


def _pair(row: Mapping[str, Any], other: Mapping[str, Any], pictures: Pictures, question: str) -> Card:
    card = _card(row, pictures, question)
    texts = [each["re_caption"] if each["status"] == OK else None for each in (row, other)]
    here, there = differences(texts[0] or "", texts[1] or "")
    if None in texts:  # there is nothing to compare with
        here, there = ([(text, False) for text, _ in marked] for marked in (here, there))
    return Card(
        card.row,
        card.picture,
        card.questions,
        card.captions,
        other,
        None if texts[0] is None else here,
        None if texts[1] is None else there,
    )


def _card(row: Mapping[str, Any], pictures: Pictures, question: str) -> Card:
    picture = pictures.found.get(_place(row))
    filled = {} if picture is None else picture.filled
    asked = {each["name"]: each["prompt"] for each in row["captions"] or ()} or ({"": question} if question else {})
    shown = {"place": f"{row['shard']}:{row['index']}", "url": public_url(row["url"] or "")}
    questions = {name: filled.get(text, text) for name, text in asked.items()}
    return Card({**row, **shown}, picture, questions, labelled(row["captions"]))


def _place(row: Mapping[str, Any]) -> Place:
    return Place(row["shard"], row["index"])
