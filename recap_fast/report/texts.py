"""Counts texts of several kinds (words, openings, reasons) that may be more than memory holds.

Batches of texts come in; Arrow counts each batch by itself, and DuckDB adds the counts up, on disk where it must.
"""

from dataclasses import dataclass
from string import punctuation
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["re", "org", "opening", "error"]
"""Words of captions, words of original captions, the first words of captions, and why there is no caption."""
MAX_LENGTH = 100
"""Characters of a text that count, so that no text can fill the memory."""
PENDING = 4_000_000
"""Rows of counts after which they are added up; later, when there are as many new ones as there are texts."""
PUNCTUATION = punctuation + "“”„‘’«»‹›–—…¡¿。，、！？：；（）「」『』【】《》・"  # noqa: RUF001 - they are meant
OPENING_WORDS = 3
_COMMON = """
a about above across after all also an and any are around as at be been behind being below beneath beside between
both but by can could do does down each either for from further had has have he her here his how i if in into is it
its itself just like many may more most much my near no not of off on one onto or other our out over own per same
several she should so some such than that the their them then there these they this those through to too toward
towards under up upon very was we were what when where which while who with within without would you your
"""
COMMON = frozenset(_COMMON.split())
"""English words that say nothing of an image; bars of frequent words leave them out."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, and how often it is in the captions and in the original ones."""

    text: str
    re: int
    org: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The number of different words in new and in original captions, and of all words."""

    re: int = 0
    org: int = 0
    both: int = 0
    """Different words in new and original captions together."""
    re_total: int = 0
    org_total: int = 0

    @property
    def share(self) -> float | None:
        """|vocab(re)| / |vocab(re) u vocab(org)|, as the paper counts it (Li et al. 2024, section 4: 82.86 %)."""
        return self.re / self.both if self.both else None


def split(texts: pa.Array) -> pa.Array:
    """The words of each text that has any, as the paper has them: what stands between white space.

    White space at the ends would leave empty words; besides, Arrow 26 may miss it at the very end of an array.
    """
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.utf8_split_whitespace(trimmed.filter(pc.greater(pc.binary_length(trimmed), 0)))


class Texts:
    """The counts of one output."""

    def __init__(self, connection: Any, table: str = "texts"):
        self._connection, self._table = connection, table
        self._pending, self._num_summed = 0, 0
        connection.execute(f"CREATE TABLE {table} (kind VARCHAR, text VARCHAR, num BIGINT)")

    def add_words(self, kind: Kind, words: pa.Array) -> None:
        """Words in lower case, without punctuation at their ends."""
        counts = pc.value_counts(words)
        texts = pc.utf8_trim(pc.utf8_lower(counts.field("values")), characters=PUNCTUATION)
        self._add(kind, texts, counts.field("counts"))

    def add_openings(self, words: pa.Array) -> None:
        """The first `OPENING_WORDS` words of each text, as they are spelt; shorter texts have no opening."""
        long = words.filter(pc.greater_equal(pc.list_value_length(words), OPENING_WORDS))
        openings = pc.binary_join(pc.list_slice(long, 0, OPENING_WORDS), " ")
        self.add("opening", openings)

    def add(self, kind: Kind, texts: pa.Array) -> None:
        """Texts as they are."""
        counts = pc.value_counts(texts.filter(pc.is_valid(texts)))
        self._add(kind, counts.field("values"), counts.field("counts"))

    def _add(self, kind: Kind, texts: pa.Array, counts: pa.Array) -> None:
        kept = pc.and_(pc.is_valid(texts), pc.not_equal(pc.binary_length(texts), 0))
        table = pa.table({"text": pc.utf8_slice_codeunits(texts, 0, MAX_LENGTH), "num": counts}).filter(kept)
        self._connection.register("batch", table)
        self._connection.execute(f"INSERT INTO {self._table} SELECT ?, text, num FROM batch", [kind])
        self._connection.unregister("batch")
        self._pending += table.num_rows
        if self._pending > max(PENDING, self._num_summed):
            self._add_up()

    def _add_up(self) -> None:
        self._connection.execute(f"""
            CREATE OR REPLACE TABLE summed AS
                SELECT kind, text, sum(num)::BIGINT AS num FROM {self._table} GROUP BY ALL;
            DROP TABLE {self._table};
            ALTER TABLE summed RENAME TO {self._table}""")
        self._pending = 0
        self._num_summed = self._connection.execute(f"SELECT count(*) FROM {self._table}").fetchall()[0][0]

    def most_frequent(self, kind: Kind, num: int, *, without_common: bool = False) -> list[tuple[str, int]]:
        """The texts of a kind that are there most often, and how often."""
        left_out = sorted(COMMON) if without_common else []
        found: list[tuple[str, int]] = self._connection.execute(
            f"""SELECT text, sum(num)::BIGINT AS total FROM {self._table} WHERE kind = ? AND NOT list_contains(?, text)
            GROUP BY text ORDER BY total DESC, text LIMIT ?""",
            [kind, left_out, num],
        ).fetchall()
        return found

    def total(self, kind: Kind) -> int:
        """How many texts of a kind there are."""
        found: int = self._connection.execute(
            f"SELECT coalesce(sum(num), 0)::BIGINT FROM {self._table} WHERE kind = ?", [kind]
        ).fetchall()[0][0]
        return found

    def vocabulary(self) -> Vocabulary:
        """How many words the captions and the original captions have."""
        self._add_up()
        found = self._connection.execute(f"""
            SELECT count(*) FILTER (re > 0), count(*) FILTER (org > 0), count(*),
            coalesce(sum(re), 0)::BIGINT, coalesce(sum(org), 0)::BIGINT FROM ({self._words()})""").fetchall()[0]
        return Vocabulary(*found)

    def added(self, vocabulary: Vocabulary, num: int) -> list[Word]:
        """The words that recaptioning adds: at least twice as frequent in the captions, most significant first.

        The order is by log-likelihood (Dunning 1993, Accurate Methods for the Statistics of Surprise and Coincidence).
        Without `COMMON` words.
        """
        total_re, total_org = float(vocabulary.re_total), float(vocabulary.org_total)
        if not total_re or not total_org:
            return []
        found = self._connection.execute(
            f"""SELECT text, re, org FROM ({self._words()})
            WHERE re * $org >= 2 * org * $re AND re > 0 AND NOT list_contains($common, text)
            ORDER BY re * ln(re * ($re + $org) / ($re * (re + org)))
              + CASE WHEN org = 0 THEN 0 ELSE org * ln(org * ($re + $org) / ($org * (re + org))) END DESC, text
            LIMIT $num""",
            {"re": total_re, "org": total_org, "common": sorted(COMMON), "num": num},
        ).fetchall()
        return [Word(*each) for each in found]

    def _words(self) -> str:
        return f"""SELECT text, coalesce(sum(num) FILTER (kind = 're'), 0)::BIGINT AS re,
            coalesce(sum(num) FILTER (kind = 'org'), 0)::BIGINT AS org
            FROM {self._table} WHERE kind IN ('re', 'org') GROUP BY text"""
