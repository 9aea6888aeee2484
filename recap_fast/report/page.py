"""All that was found, as the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recap_fast.addresses import path_parts, public_url
from recap_fast.joined import JoinedOutput
from recap_fast.launch.progress_line import duration
from recap_fast.report import contents
from recap_fast.report.beside import Joined, Place
from recap_fast.report.choice import Section
from recap_fast.report.figures import Figures
from recap_fast.report.gallery import galleries, galleries_beside
from recap_fast.report.pictures import Pictures
from recap_fast.report.rendering import MAX_SHOWN, render
from recap_fast.version import __version__
from recap_fast.write.status import Status, find_status

MAX_PROBLEMS = 3
"""Shards that a note names."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The output that the page compares with."""

    output: JoinedOutput
    figures: Figures
    joined: Joined
    here: Mapping[Place, Mapping[str, Any]]
    """Rows of this output, by their places."""
    there: Mapping[Place, Mapping[str, Any]]
    """Rows of the baseline, by their places."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a page is made of."""

    output: JoinedOutput
    figures: Figures
    sections: Sequence[Section]
    pictures: Pictures
    seed: int
    baseline: Baseline | None = None


def write_page(page: Page) -> str:
    """The page as HTML."""
    figures, baseline, run = page.figures, page.baseline, page.output.run
    status = find_status(page.output.output)
    prompts, captions_per_image = contents.prompts(page.output.output, run, figures)
    question = "" if prompts else str(run.fingerprint.get("prompt") or "")
    label, other = _labels(page.output, None if baseline is None else baseline.output)
    sections = galleries(page.sections, page.pictures, question)
    drawn = contents.charts(figures, None if baseline is None else (other, baseline.figures))
    rates, failures = contents.endings(figures), contents.failures(figures)
    beside = None
    if baseline is not None:
        beside = {
            "label": other,
            "joined": baseline.joined,
            "rows": contents.compared(figures, baseline.figures),
            "sections": galleries_beside(baseline.joined, baseline.here, baseline.there, page.pictures, question),
        }
    parts = (
        ("random", "Gallery", bool(sections) and sections[0].name == "random"),
        ("prompts", "Prompts", prompts),
        ("beside", f"Beside {other}", beside),
        ("lengths", "Lengths and openings", drawn),
        ("words", "Words", figures.re_words or figures.org_words),
        ("look", "Worth a look", any(section.name != "random" for section in sections)),
        ("rates", "Endings and flags", rates),
        ("failures", "Failures", True),
        ("made", "Made with", True),
    )
    values = {
        "title": f"Captions in {label}",
        "address": public_url(page.output.output.address),
        "figures": figures,
        "num_shards": len(run.shards),
        "engine": run.fingerprint.get("engine"),
        "question": question,
        "prompts": prompts,
        "captions_per_image": captions_per_image,
        "notes": _notes(page, status),
        "contents": contents.contents(parts),
        "tiles": contents.tiles(figures, status.usage),
        "sections": sections,
        "seed": page.seed,
        "beside": beside,
        "this_label": label,
        "rates": rates,
        "failures": failures,
        "made_with": list(contents.made_with(page.output.output, run, status.usage, duration)),
        "has_originals": bool(figures.org_lengths),
        "score_labels": contents.SCORE_LABELS,
        "version": __version__,
        "max_text": MAX_SHOWN,
        **contents.headings(figures),
    }
    return render(values, drawn)


def _labels(output: JoinedOutput, other: JoinedOutput | None) -> tuple[str, str]:
    """The outputs' names: the last folders of their addresses, as many as tell them apart."""
    ours, theirs = (path_parts(public_url(each.output.address)) if each is not None else [] for each in (output, other))
    num = 1
    while ours[-num:] == theirs[-num:] and num < max(len(ours), len(theirs)):
        num += 1
    return "/".join(ours[-num:]), "/".join(theirs[-num:])


def _notes(page: Page, status: Status) -> list[str]:
    """What a reader should know before the figures."""
    notes, missing = [], status.num_shards - status.ended["complete"]
    if missing and status.num_shards:
        notes.append(
            f"{status.ended['complete']:,} of {status.num_shards:,} shards are finished. Of the others, the page has "
            "the rows written so far."
        )
    if problems := page.pictures.problems:
        shown = "; ".join(f"shard {name}: {why}" for name, why in [*problems.items()][:MAX_PROBLEMS])
        more = f"; and {len(problems) - MAX_PROBLEMS:,} more" if len(problems) > MAX_PROBLEMS else ""
        notes.append(
            f"Some images cannot be read, and are not shown. {shown}{more}. If they have moved, add --relocate OLD=NEW."
        )
    return notes
