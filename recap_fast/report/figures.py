"""The figures of an output, counted in one pass over its rows in bounded memory."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recap_fast.records import OK
from recap_fast.report.choice import SCORES
from recap_fast.report.texts import Texts, Vocabulary, Word, split

CHUNK_ROWS, CHUNK_BYTES = 32_768, 48 << 20
"""Most rows, and most bytes, that are counted at once."""
NUM_WORDS, NUM_OPENINGS, NUM_ERRORS = 24, 10, 40
SEPARATOR = "\x1f"
"""Stands between a status and its reason."""


@dataclass(slots=True)
class PromptFigures:
    """What is counted of the captions of one prompt, where rows have a list of them."""

    captions: int = 0
    words: int = 0
    loops: int = 0
    cuts: int = 0
    """Captions that reached the limit of tokens."""


@dataclass(slots=True, kw_only=True)
class Figures:
    """What is counted of the rows of an output. Where rows have several captions, all but `prompts` is of the first."""

    rows: int = 0
    captioned: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Rows without a caption, by status."""
    finish_reasons: Counter[str] = field(default_factory=Counter)
    """Number of captions by finish reason."""
    flags: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    """Rows that share the caption of an identical image."""
    tokens: int = 0
    re_lengths: Counter[int] = field(default_factory=Counter)
    """Captions by their number of words between white space, as the paper counts it."""
    org_lengths: Counter[int] = field(default_factory=Counter)
    scores: dict[str, Counter[float]] = field(default_factory=dict)
    """For each column, the number of rows by score, rounded to two decimals."""
    score_sums: Counter[str] = field(default_factory=Counter)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    re_words: list[tuple[str, int]] = field(default_factory=list)
    org_words: list[tuple[str, int]] = field(default_factory=list)
    added: list[Word] = field(default_factory=list)
    openings: list[tuple[str, int]] = field(default_factory=list)
    errors: list[tuple[str, str, int]] = field(default_factory=list)
    """Status, reason and how many rows have it, the most frequent ones."""
    prompts: dict[str, PromptFigures] = field(default_factory=dict)
    """By the names of prompts; empty where no row has a list of captions."""

    @property
    def mean_re(self) -> float | None:
        """Mean number of words of a new caption."""
        return _mean(self.re_lengths)

    @property
    def mean_org(self) -> float | None:
        """Mean number of words of an original caption."""
        return _mean(self.org_lengths)

    @property
    def mean_tokens(self) -> float | None:
        """Mean number of generated tokens of a caption."""
        return self.tokens / self.captioned if self.captioned else None

    def mean_score(self, column: str) -> float | None:
        """Mean over the rows that have this score."""
        num = self.scores.get(column, Counter()).total()
        return self.score_sums[column] / num if num else None

    def share(self, count: int) -> float | None:
        """The share that a count has of all captions."""
        return count / self.captioned if self.captioned else None


def _mean(lengths: Counter[int]) -> float | None:
    total = lengths.total()
    return sum(length * count for length, count in lengths.items()) / total if total else None


COLUMNS = (
    *("status", "error", "finish_reason", "flags", "duplicate_of", "num_tokens", "re_length", "org_length"),
    *("captions", "re_caption", "org_caption", *SCORES, *(column.replace("re_", "org_") for column in SCORES)),
)


def count(batches: Iterable[pa.RecordBatch], texts: Texts, watch: Callable[[pa.Table], object]) -> Figures:
    """Counts rows with at least `COLUMNS`; `watch` gets the same rows, some ten thousand at a time."""
    figures = Figures()
    for rows in _chunks(batches):
        _add(figures, rows, texts)
        watch(rows)
    figures.vocabulary = texts.vocabulary()
    figures.re_words = texts.most_frequent("re", NUM_WORDS, without_common=True)
    figures.org_words = texts.most_frequent("org", NUM_WORDS, without_common=True)
    figures.added = texts.added(figures.vocabulary, NUM_WORDS)
    figures.openings = texts.most_frequent("opening", NUM_OPENINGS)
    errors = ((*text.partition(SEPARATOR)[::2], num) for text, num in texts.most_frequent("error", NUM_ERRORS))
    figures.errors = list(errors)
    return figures


def _chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Larger batches, each of which Arrow and DuckDB count at once."""
    some: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        some.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= CHUNK_ROWS or size >= CHUNK_BYTES:
            yield pa.Table.from_batches(some).combine_chunks()
            some, rows, size = [], 0, 0
    if rows:
        yield pa.Table.from_batches(some).combine_chunks()


def _add(figures: Figures, rows: pa.Table, texts: Texts) -> None:
    is_ok = pc.equal(rows["status"], OK)
    captioned, failed = rows.filter(is_ok), rows.filter(pc.invert(is_ok))
    figures.rows += rows.num_rows
    figures.captioned += captioned.num_rows
    figures.failed.update(_counts(failed["status"]))
    figures.finish_reasons.update(_counts(captioned["finish_reason"]))
    figures.flags.update(_counts(pc.list_flatten(rows["flags"])))
    figures.duplicates += pc.count(rows["duplicate_of"]).as_py()
    figures.tokens += pc.sum(captioned["num_tokens"]).as_py() or 0
    figures.re_lengths.update(_counts(captioned["re_length"]))
    figures.org_lengths.update(_counts(rows["org_length"]))
    for column in (name for name in COLUMNS if name.endswith("_score")):
        _add_scores(figures, column, rows[column].drop_null())
    _add_prompts(figures, pc.list_flatten(_array(rows["captions"])))
    re, org = (split(_array(rows[column].drop_null())) for column in ("re_caption", "org_caption"))
    texts.add_words("re", pc.list_flatten(re))
    texts.add_words("org", pc.list_flatten(org))
    texts.add_openings(re)
    reasons = pc.binary_join_element_wise(failed["status"], pc.fill_null(failed["error"], ""), SEPARATOR)
    texts.add("error", _array(reasons))


def _add_prompts(figures: Figures, captions: pa.Array) -> None:
    text = pc.utf8_trim_whitespace(pc.struct_field(captions, "text"))
    words = pc.if_else(pc.equal(text, ""), 0, pc.list_value_length(pc.utf8_split_whitespace(text)))
    reason = pc.struct_field(captions, "finish_reason")
    ended = {each: pc.cast(pc.equal(reason, each), pa.int64()) for each in ("loop", "length")}
    rows = pa.table({"name": pc.struct_field(captions, "name"), "words": words, **ended})
    sums = [(column, "sum") for column in ("words", "loop", "length")]
    for row in rows.group_by("name").aggregate([([], "count_all"), *sums]).to_pylist():
        each = figures.prompts.setdefault(str(row["name"]), PromptFigures())
        each.captions += row["count_all"]
        each.words += row["words_sum"] or 0
        each.loops += row["loop_sum"] or 0
        each.cuts += row["length_sum"] or 0


def _add_scores(figures: Figures, column: str, scores: pa.ChunkedArray) -> None:
    scores = scores.filter(pc.is_finite(scores))
    if len(scores):
        values, counts = np.unique(np.round(scores.to_numpy().astype(np.float64), 2), return_counts=True)
        found = figures.scores.setdefault(column, Counter())
        found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        figures.score_sums[column] += pc.sum(scores).as_py()


def _counts(column: Any) -> dict[Any, int]:
    counts = pc.value_counts(_array(column).drop_null())
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))


def _array(column: Any) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
