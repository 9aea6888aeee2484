"""`recap-fast report`: an output in, one HTML page about it out, which loads nothing and runs nothing.

One pass counts the rows and chooses those of the gallery; then the images of these rows alone are read.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recap_fast.joined import JoinedOutput
from recap_fast.progress import OnProgress, unwatched
from recap_fast.report.beside import Join, Joined
from recap_fast.report.choice import Choice, Section
from recap_fast.report.database import check_extra, connect
from recap_fast.report.figures import Figures
from recap_fast.report.gallery import places_of
from recap_fast.report.page import Baseline, Page, write_page
from recap_fast.report.pictures import read_pictures
from recap_fast.report.survey import by_shard, read_places, survey
from recap_fast.report.texts import Texts


@dataclass(slots=True)
class Report:
    """What was written."""

    html: str
    rows: int
    problems: dict[str, str] = field(default_factory=dict)
    """For each shard, why its images are not shown."""
    joined: Joined | None = None
    """With a baseline only."""


def make_report(
    output: JoinedOutput,
    baseline: JoinedOutput | None = None,
    *,
    num: int = 6,
    seed: int = 0,
    progress: OnProgress = unwatched,
) -> Report:
    """The page about an output, beside a baseline if there is one.

    `num`: images of each section of the gallery; `seed` draws them. `progress` is told how many shards were counted,
    and then of how many images were read. Raises ConfigError if a library is missing, and RecapError if rows cannot be
    read. Images that cannot be read are no error.
    """
    check_extra()
    outputs = [output] if baseline is None else [output, baseline]
    total = sum(len(each.run.shards) for each in outputs)
    done = 0

    def on_shard() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    choice = Choice(num, seed)
    with tempfile.TemporaryDirectory(prefix="recap-fast-") as folder, connect(Path(folder)) as database:
        join = None if baseline is None else Join(database)
        texts, others = Texts(database), Texts(database, "other_texts")
        watch = [choice.add, *([] if join is None else [lambda rows: join.add("this", rows)])]
        figures = survey(output, texts, watch, on_shard)
        if baseline is None or join is None:
            return _write(output, figures, choice.sections(), None, (num, seed), progress)
        other = survey(baseline, others, [lambda rows: join.add("other", rows)], on_shard)
        joined = join.find(num, seed)
    return _write(output, figures, choice.sections(), (baseline, other, joined), (num, seed), progress)


def _write(
    output: JoinedOutput,
    figures: Figures,
    sections: Sequence[Section],
    beside: tuple[JoinedOutput, Figures, Joined] | None,
    drawn: tuple[int, int],
    progress: OnProgress,
) -> Report:
    places, compared = places_of(sections), None
    if beside is not None:
        baseline, other, joined = beside
        pairs = [pair for _, found in joined.sections.values() for pair in found]
        here = read_places(output, [this for this, _ in pairs])
        there = read_places(baseline, [that for _, that in pairs])
        compared = Baseline(baseline, other, joined, here, there)
        places |= {*here}
    wanted = by_shard(places)
    pictures = read_pictures(output, wanted, lambda done: progress(done, len(wanted)))
    html = write_page(Page(output, figures, sections, pictures, drawn[1], compared))
    return Report(html, figures.rows, pictures.problems, None if compared is None else compared.joined)
