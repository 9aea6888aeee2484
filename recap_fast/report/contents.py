"""What the page says: figures in, headings, tables and charts of the template out."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from recap_fast.addresses import public_url
from recap_fast.report.charts import NEW, ORIGINAL, OTHER, Series, histogram
from recap_fast.report.figures import Figures, PromptFigures
from recap_fast.report.rendering import number, score, share
from recap_fast.text import counted
from recap_fast.write.opening import read_lists
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.rows import SCORES
from recap_fast.write.run_file import RunFile, Usage
from recap_fast.write.typed_json import read_json
from recap_fast.write.usage import rates

SCORE_LABELS = {
    "re_clip_score": "CLIP score",
    "org_clip_score": "CLIP score of the original",
    "re_gpt4v_score": "rating",
    "org_gpt4v_score": "rating of the original",
}
_SECTIONS = {
    "longest": ("The longest captions", "Those with the most words, of {}."),
    "shortest": ("The shortest captions", "Those with the fewest words, of {}."),
    "loop": ("Stopped in a loop", "{}. The model repeated itself, so the caption ends with its last whole sentence."),
    "length": ("Cut at the limit of tokens", "{}. The text may end in the middle of a sentence."),
    "re_clip_score": ("Lowest CLIP scores", "Those with the lowest score, of {} with a score."),
    "re_gpt4v_score": ("Lowest ratings", "Those with the lowest rating, of {} with a rating."),
}
_FLAGS = {
    "loop": "the caption repeats itself",
    "cut": "the limit of tokens cut the caption within a sentence",
    "refusal": "the caption begins as a refusal",
    "stock_opening": "the caption begins with a stock phrase, such as “The image shows”",
    "repeats_prompt": "the caption repeats a sentence of the prompt",
    "garble": "the caption has letters that are not Latin, or damaged characters",
    "flat_color": "the image has one color",
    "same_caption": "other images of the shard have the same caption",
    "placeholder": "the shard has the image many times, or the image has one color",
}
_HASH = re.compile(r"\b[0-9a-f]{32,}\b")
SCORE_FORMAT, MAX_SETTINGS_BYTES = 1, 1 << 20
"""Version and largest size of the file with the settings of scores."""
MAX_REASONS, MAX_PROMPTS = 3, 200
"""Reasons shown for each status, and prompts shown."""


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """A prompt in the table of prompts."""

    name: str
    question: str
    captions: int
    mean_words: float | None
    loops: float | None
    """Share of the captions that stopped in a loop."""
    cuts: float | None
    """Share of the captions that reached the limit of tokens."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A status in the table of failures."""

    status: str
    count: int
    share: float
    reasons: tuple[tuple[str, int], ...]


def about_section(name: str, total: int) -> tuple[str, str]:
    """The heading of a section of the gallery, and what it is drawn from."""
    kind, _, what = name.partition(":")
    if kind == "flag":
        meaning = f": {_FLAGS[what]}" if what in _FLAGS else ""
        return f"Flag: {what.replace('_', ' ')}", f"{counted(total, 'row')} with this flag{meaning}."
    if kind == "status":
        return f"No caption: {what.replace('_', ' ')}", f"{counted(total, 'image')} with this status."
    title, text = _SECTIONS[name]
    return title, text.format(counted(total, "caption"))


def tiles(figures: Figures, usage: Mapping[str, Usage]) -> list[tuple[str, str]]:
    """The key figures: value and label."""
    f = figures
    found = [
        (number(f.rows), "images"),
        (number(f.captioned), f"captioned, {share(f.captioned / f.rows) if f.rows else 'none'}"),
        (number(f.failed.total()), f"failed, {share(f.failed.total() / f.rows) if f.rows else 'none'}"),
    ]
    lengths = ((f.mean_re, "words a new caption"), (f.mean_org, "words an original caption"))
    found += [
        (number(mean), label) for mean, label in (*lengths, (f.mean_tokens, "tokens a caption")) if mean is not None
    ]
    if f.vocabulary.org:
        found.append((share(f.vocabulary.share), "of the common vocabulary is in new captions"))
    found += [
        (_mean_score(column, f), f"mean {label}") for column, label in SCORE_LABELS.items() if f.scores.get(column)
    ]
    for rate in rates(usage):
        found.append(
            (
                number(rate.images_per_hour / 3600),
                f"images/s for each {'GPU' if 'GPU' in rate.unit else 'process'}",
            )
        )
    return found


def compared(this: Figures, other: Figures) -> list[tuple[str, str, str]]:
    """The figures of two outputs beside each other."""
    rows: list[tuple[str, Callable[[Figures], str]]] = [
        ("images", lambda f: number(f.rows)),
        ("captioned", lambda f: number(f.captioned)),
        ("failed", lambda f: number(f.failed.total())),
        ("words a caption", lambda f: number(f.mean_re)),
        ("tokens a caption", lambda f: number(f.mean_tokens)),
        ("different words", lambda f: number(f.vocabulary.re)),
        ("share of the common vocabulary", lambda f: share(f.vocabulary.share if f.vocabulary.org else None)),
        ("stopped in a loop", lambda f: share(f.share(f.finish_reasons["loop"]))),
        ("cut at the limit of tokens", lambda f: share(f.share(f.finish_reasons["length"]))),
    ]
    flags = sorted({*this.flags, *other.flags})
    rows += [(f"flag {flag.replace('_', ' ')}", partial(_flag_rate, flag)) for flag in flags]
    scored = [column for column in SCORE_LABELS if this.scores.get(column) or other.scores.get(column)]
    rows += [(f"mean {SCORE_LABELS[column]}", partial(_mean_score, column)) for column in scored]
    return [(label, figure(this), figure(other)) for label, figure in rows]


def _flag_rate(flag: str, figures: Figures) -> str:
    return share(figures.flags[flag] / figures.rows if figures.rows else None)


def _mean_score(column: str, figures: Figures) -> str:
    mean = figures.mean_score(column)
    return "none" if mean is None else score(mean)


def endings(figures: Figures) -> list[tuple[str, int, float]]:
    """Finish reasons of captions and flags of rows, with their shares; nothing without rows."""
    reasons = [
        (f"finish reason {name}", count, count / figures.captioned)
        for name, count in figures.finish_reasons.most_common()
    ]
    flags = [
        (f"flag {name.replace('_', ' ')}", count, count / figures.rows) for name, count in figures.flags.most_common()
    ]
    same = [("share the caption of an identical image", figures.duplicates, figures.duplicates / max(1, figures.rows))]
    return [*reasons, *flags, *(same if figures.duplicates else [])]


def failures(figures: Figures) -> list[Failure]:
    """The statuses of rows without a caption, the most frequent first."""
    return [
        Failure(
            status,
            count,
            count / figures.rows,
            tuple((reason, num) for name, reason, num in figures.errors if name == status)[:MAX_REASONS],
        )
        for status, count in figures.failed.most_common()
    ]


def prompts(output: OutputFolder, run: RunFile, figures: Figures) -> tuple[list[AskedPrompt], int]:
    """The prompts of a run whose rows have lists of captions, in its order, then others that rows have; and how many
    captions each row has. Raises ConfigError for a run file that no run wrote."""
    lists = read_lists(output, run)
    questions = {name: question for each in lists.prompts for name, question in each.items()}
    names = [*questions, *(name for name in figures.prompts if name not in questions)][:MAX_PROMPTS]
    found = []
    for name in names:
        f = figures.prompts.get(name, PromptFigures())
        shares = (part / f.captions if f.captions else None for part in (f.words, f.loops, f.cuts))
        found.append(AskedPrompt(name, questions.get(name, ""), f.captions, *shares))
    return found, len(lists.prompts)


def charts(figures: Figures, other: tuple[str, Figures] | None) -> dict[tuple[str, str], str]:
    """Histograms of lengths and scores, by title and what they say in words."""
    captions = [Series("new captions", figures.re_lengths, NEW)]
    if other is not None:
        captions.append(Series("baseline", other[1].re_lengths, OTHER))
    series = [*captions, Series("original captions", figures.org_lengths, ORIGINAL)]
    means = [f"{number(figures.mean_re)} words in new captions"] if figures.re_lengths else []
    means += [f"{number(figures.mean_org)} in original ones"] if figures.org_lengths else []
    means += [f"{number(other[1].mean_re)} in those of {other[0]}"] if other else []
    text = f"Mean: {', '.join(means)}."
    text += " The last bar includes all longer captions."
    drawn = {("Words of a caption", text): histogram("lengths", "Words of a caption", text, "words", series)}
    for kind, title, step in (("clip", "CLIP score", 0.01), ("gpt4v", "Rating by a judge", 1)):
        names = [f"re_{kind}_score", f"org_{kind}_score"]
        found = {name: figures.scores[name] for name in names if figures.scores.get(name)}
        scores = ", ".join(
            f"{_mean_score(name, figures)} of {'new' if name[0] == 'r' else 'original'} captions" for name in found
        )
        text = f"Mean: {scores}."
        colors = {names[0]: ("new captions", NEW), names[1]: ("original captions", ORIGINAL)}
        series = [Series(colors[name][0], counts, colors[name][1]) for name, counts in found.items()]
        drawn[title, text] = histogram(kind, title, text, title.lower().replace("clip", "CLIP"), series, step)
    return {about: svg for about, svg in drawn.items() if svg}


def made_with(
    output: OutputFolder, run: RunFile, usage: Mapping[str, Usage], show_duration: Callable[[float], str]
) -> Iterator[tuple[str, str]]:
    """Machine and provenance: what devices did, then the settings that decide what rows say, hashes shortened, and what
    scores were made with."""
    for device, used in usage.items():
        what = "held" if used.is_gpu else "at work"
        rate = used.images / used.seconds if used.seconds else 0.0
        hours = f", {used.seconds / 3600:,.2f} GPU-hours" if used.is_gpu else ""
        done = f"{counted(used.images, 'image')} captioned, {rate:,.1f} images/s"
        yield device, f"{what} for {show_duration(used.seconds)}{hours}: {done}"
    for name, value in run.fingerprint.items():
        if value is not None and value != "" and name != "prompts":  # of these, 'prompt' says all for people
            yield name.replace("_", " "), _HASH.sub(lambda match: f"{match[0][:12]}…", str(value))
    for change in run.accepted:
        yield f"changed on request: {change.get('field')}", f"from {change.get('from')} to {change.get('to')}"
    for kind in SCORES:
        if settings := _score_settings(output, kind):
            yield f"{kind} scores", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())


def _score_settings(output: OutputFolder, kind: str) -> Mapping[str, str]:
    """What is said of the model or the judge; nothing where there are no scores, or their settings cannot be read."""
    try:
        content = read_json(output.store, output.score_settings(kind), SCORE_FORMAT, MAX_SETTINGS_BYTES)
    except (OSError, ValueError):
        return {}
    settings = content.get("settings")
    flat = settings.items() if isinstance(settings, dict) else ()
    return {name: public_url(str(value)) for name, value in flat if isinstance(value, str | int | float)}


def headings(figures: Figures) -> dict[str, str]:
    """Headings that say what one sees."""
    re, org = figures.mean_re, figures.mean_org
    lengths = f"New captions have {number(re)} words" if re is not None else "There are no new captions"
    if re is not None and org:
        lengths += f", original ones {number(org)}"
    vocabulary, failed = figures.vocabulary, figures.failed.total()
    parts = [f"New captions have {counted(vocabulary.re, 'different word')}"]
    if vocabulary.org:
        parts.append(f"original ones {vocabulary.org:,}, both together {vocabulary.both:,}")
        parts.append(f"so new captions have {share(vocabulary.share)} of the common vocabulary")
    listed = sum(each.captions for each in figures.prompts.values())
    new = counted(listed or figures.captioned, "new caption")
    return {
        "heading": f"{new} beside the original ones" if org else new,
        "lengths_heading": lengths,
        "words_heading": "What the words are"
        if not figures.added
        else "What the words are, and what recaptioning adds",
        "vocabulary_text": ", ".join(parts) + ".",
        "failures_heading": f"{counted(failed, 'image')} {'has' if failed == 1 else 'have'} no caption"
        if failed
        else "Every image has a caption"
        if figures.rows
        else "There are no rows yet",
    }


def contents(ids: Iterable[tuple[str, str, object]]) -> list[tuple[str, str]]:
    """The links within the page, to the parts that are there."""
    return [(name, label) for name, label, is_there in ids if is_there]
