"""The summary of a call of `score`, in lines for people."""

from collections.abc import Iterator, Mapping

from recap_fast.records import UNREADABLE
from recap_fast.score.images import CHANGED, GONE
from recap_fast.score.score_files import Statistics, Totals
from recap_fast.score.scoring import Scoring
from recap_fast.text import counted
from recap_fast.write.rows import SCORES

_LOST = {
    GONE: "cannot be found any more",
    CHANGED: "changed after the run",
    UNREADABLE: "could not be read, and the next call tries again",
}


def summary(scoring: Scoring, totals: Totals) -> str:
    """What was scored, the mean and the median of all scores, notes, and where the files are."""
    kind, output = scoring.scorer.kind, scoring.joined.output
    columns = SCORES[kind]
    width = max(map(len, columns))
    rate = f", {scoring.num_scored / scoring.seconds:,.1f} images/s" if scoring.num_scored else ""
    scored = f"{counted(scoring.num_scored, 'image')} of {counted(scoring.num_shards, 'shard')}{rate}"
    sides = zip(columns, (totals.re, totals.org), strict=True)
    lines = [f"{'scored':<{width}}  {scored}", *(f"{name:<{width}}  {_describe(side)}" for name, side in sides)]
    lines += [f"note: {sentence}." for sentence in (*_losses(totals.counts), *scoring.scorer.describe(totals.counts))]
    if scoring.num_unfinished:
        have = "is not finished and has" if scoring.num_unfinished == 1 else "are not finished and have"
        lines.append(f"note: {counted(scoring.num_unfinished, 'shard')} {have} no scores yet.")
    lines.append(f"{'files':<{width}}  {output.store.shown(output.score_files(kind))}")
    lines.append(f'{"load":<{width}}  datasets.load_dataset("{output.address}", "{kind}_scores")')
    return "\n".join(lines)


def _describe(side: Statistics) -> str:
    if side.mean is None:
        return "none"
    return f"mean {side.mean:.2f}, median {side.median:.2f} of {counted(side.number, 'caption')}"


def _losses(counts: Mapping[str, int]) -> Iterator[str]:
    for note, what in _LOST.items():
        if number := counts.get(note):
            lack = "has no score: it" if number == 1 else "have no score: they"
            yield f"{counted(number, 'image')} {lack} {what}"
