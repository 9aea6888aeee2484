"""Two outputs of the same images, joined row by row: by uid, else by the SHA-256 of the image.

Rows of both come in, batch by batch, and only their names, hashes and lengths are kept, by DuckDB, on disk where it
must. Where a uid or an image is there several times, the n-th row of one output is joined to the n-th of the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

COLUMNS = ("shard", "index", "uid", "sha256", "image_sha256", "re_caption", "re_length", "status")
Side = Literal["this", "other"]
SECTIONS: Mapping[str, tuple[str, str]] = {
    "random": ("TRUE", "NULL::BIGINT"),
    "longer": ("words > other_words", "other_words - words"),
    "shorter": ("words < other_words", "words - other_words"),
    "only_this": ("words IS NOT NULL AND other_words IS NULL", "NULL::BIGINT"),
    "only_other": ("words IS NULL AND other_words IS NOT NULL", "NULL::BIGINT"),
}
"""For each section, a condition on joined rows and what they are sorted by; equal ones are drawn at random."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A row of an output."""

    shard: str
    index: int


@dataclass(frozen=True, slots=True)
class Joined:
    """How the rows of two outputs compare."""

    by_uid: int
    by_sha256: int
    equal: int
    """Joined rows whose captions are equal, letter by letter."""
    both: int
    """Joined rows that have a caption in both outputs."""
    mean_words: tuple[float | None, float | None]
    """Mean number of words of these rows' captions: in this output, and in the other."""
    sections: dict[str, tuple[int, list[tuple[Place, Place]]]]
    """For each name in `SECTIONS`: how many rows there are, and some of them."""

    @property
    def rows(self) -> int:
        """How many rows were joined."""
        return self.by_uid + self.by_sha256


class Join:
    """Collects the rows of both outputs."""

    def __init__(self, connection: Any):
        self._connection = connection
        connection.execute("""CREATE TABLE sides (is_other BOOLEAN, shard VARCHAR, index BIGINT,
            uid UHUGEINT, image UHUGEINT, caption UHUGEINT, words BIGINT)""")

    def add(self, side: Side, rows: pa.Table) -> None:
        """Takes rows with `COLUMNS`."""
        self._connection.register("batch", rows)
        self._connection.execute(
            """INSERT INTO sides SELECT ?, shard, index, md5_number(uid), md5_number(coalesce(image_sha256, sha256)),
            md5_number(re_caption), CASE WHEN status = 'ok' THEN re_length END FROM batch""",
            [side == "other"],
        )
        self._connection.unregister("batch")

    def find(self, num: int, seed: int) -> Joined:
        """Joins the rows; up to `num` of each section, drawn by `seed` where they are equal in what sorts them."""
        self._connection.execute(f"""
            CREATE TABLE by_uid AS {_joining("uid", "sides")};
            CREATE TABLE rest AS
                FROM sides ANTI JOIN (
                    SELECT FALSE AS is_other, shard, index FROM by_uid
                    UNION ALL SELECT TRUE, other_shard, other_index FROM by_uid
                ) USING (is_other, shard, index);
            CREATE TABLE by_image AS {_joining("image", "rest")};
            CREATE VIEW joined AS FROM by_uid UNION ALL FROM by_image""")
        by_uid, by_image = (self._one(f"SELECT count(*) FROM {table}")[0] for table in ("by_uid", "by_image"))
        equal, both, here, there = self._one("""SELECT count(*) FILTER (caption = other_caption), count(*),
            avg(words), avg(other_words) FROM joined WHERE words IS NOT NULL AND other_words IS NOT NULL""")
        sections = {name: self._section(*SECTIONS[name], num, seed) for name in SECTIONS}
        return Joined(by_uid, by_image, equal, both, (here, there), sections)

    def _section(self, condition: str, order: str, num: int, seed: int) -> tuple[int, list[tuple[Place, Place]]]:
        total: int = self._one(f"SELECT count(*) FROM joined WHERE {condition}")[0]
        found = self._connection.execute(
            f"""SELECT shard, index, other_shard, other_index FROM joined WHERE {condition}
            ORDER BY {order}, md5(concat_ws(':', ?, index, shard)) LIMIT ?""",
            [seed, num],
        ).fetchall()
        return total, [(Place(*row[:2]), Place(*row[2:])) for row in found]

    def _one(self, query: str) -> Any:
        return self._connection.execute(query).fetchall()[0]


def _joining(column: str, table: str) -> str:
    """Pairs rows with equal values of a column, the n-th with the n-th."""
    numbered = f"""SELECT *, row_number() OVER (PARTITION BY {column} ORDER BY shard, index) AS nth
        FROM {table} WHERE {column} IS NOT NULL AND """
    return f"""SELECT a.shard, a.index, a.words, a.caption, b.shard AS other_shard, b.index AS other_index,
        b.words AS other_words, b.caption AS other_caption
        FROM ({numbered} NOT is_other) a JOIN ({numbered} is_other) b USING ({column}, nth)"""
