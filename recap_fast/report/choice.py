"""The few rows of an output that its gallery shows: drawn at random, and by what deserves a look.

Batches of rows come in, in any size; for each section the first rows by some number are kept. Rows that are equal in
that number, and those drawn at random, are taken by a hash of seed, shard and index: the same seed shows the same rows.
Rows that share the caption of an identical image come behind all others, but for those drawn at random.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recap_fast.records import OK

COLUMNS = (
    *("shard", "index", "key", "url", "uid", "file_name", "re_caption", "org_caption", "status", "error", "warning"),
    *("finish_reason", "num_tokens", "re_length", "flags", "duplicate_of", "width", "height"),
    *("captions", "sha256", "image_sha256", "re_clip_score", "org_clip_score", "re_gpt4v_score", "org_gpt4v_score"),
)
"""What a row of the gallery is shown with."""
MAX_TEXT, MAX_CAPTIONS = 4000, 100
"""Characters of each text, and captions of each row, that are kept."""
MAX_SECTIONS = 60
SCORES = {"re_clip_score": "clip", "re_gpt4v_score": "rating"}


@dataclass(frozen=True, slots=True)
class Section:
    """Which rows, as 'random', 'loop', 'flag:refusal' or 'status:corrupt', and the rows themselves."""

    name: str
    rows: list[dict[str, Any]]
    total: int
    """How many rows the section is drawn from."""


@dataclass(slots=True)
class _Kept:
    total: int = 0
    best: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)


class Choice:
    """Keeps up to `num` rows of each section."""

    def __init__(self, num: int, seed: int = 0):
        self._num, self._seed = num, seed
        self._kept: dict[str, _Kept] = {}

    def add(self, batch: pa.Table) -> None:
        """Offers rows with `COLUMNS`."""
        tickets = self._draw(batch)
        is_copy = _bools(pc.is_valid(batch["duplicate_of"]))
        for name, mask, order in _offers(batch):
            kept = self._kept.get(name)
            if kept is None:
                if len(self._kept) >= MAX_SECTIONS:
                    continue
                kept = self._kept[name] = _Kept()
            if name != "random":
                order = np.where(is_copy, np.inf, order)
            self._offer(kept, batch, np.flatnonzero(mask), order, tickets)

    def sections(self) -> list[Section]:
        """The sections that have rows, in the order in which they are worth a look."""
        first = ["random", "longest", "shortest", "loop", "length", *SCORES]
        names = sorted(self._kept, key=lambda name: (first.index(name) if name in first else len(first), name))
        found = ((name, self._kept[name]) for name in names)
        return [Section(name, [row for _, _, row in kept.best], kept.total) for name, kept in found if kept.total]

    def _draw(self, batch: pa.Table) -> NDArray[np.uint64]:
        """A number for each row that looks random: SplitMix64 (Steele et al. 2014) of seed, shard and index."""
        shards = pc.dictionary_encode(batch["shard"].combine_chunks())
        salts = [zlib.crc32(name.encode(), self._seed & 0xFFFFFFFF) for name in shards.dictionary.to_pylist()]
        salt = np.array(salts or [0], np.uint64)[shards.indices.to_numpy()]
        with np.errstate(over="ignore"):
            z = (salt << np.uint64(32)) ^ (batch["index"].to_numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
        return mixed

    def _offer(
        self,
        kept: _Kept,
        batch: pa.Table,
        places: NDArray[np.int64],
        order: NDArray[np.float64],
        tickets: NDArray[np.uint64],
    ) -> None:
        kept.total += len(places)
        if len(kept.best) == self._num and kept.best:
            places = places[order[places] <= kept.best[-1][0]]
        chosen = places[np.lexsort((tickets[places], order[places]))][: self._num]
        rows = batch.take(pa.array(chosen)).to_pylist()
        new = [(float(order[n]), int(tickets[n]), cut(row)) for n, row in zip(chosen, rows, strict=True)]
        kept.best = sorted([*kept.best, *new], key=lambda each: each[:2])[: self._num]


def cut(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its texts cut to `MAX_TEXT` and with `MAX_CAPTIONS`: a few of them must not fill the memory."""
    if row.get("captions"):
        row = {**row, "captions": [cut(each) for each in row["captions"][:MAX_CAPTIONS]]}
    return {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in row.items()}


def _offers(batch: pa.Table) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.float64]]]:
    """Sections by name, which rows are in them, and the number that the first ones have least of."""
    status = batch["status"].combine_chunks()
    is_ok = _bools(pc.and_(pc.equal(status, OK), pc.is_valid(batch["re_caption"])))
    any_order = np.zeros(batch.num_rows)
    length = _floats(batch["re_length"])
    yield "random", is_ok, any_order
    yield "longest", is_ok, -length
    yield "shortest", is_ok, length
    for reason in ("loop", "length"):
        yield reason, is_ok & _bools(pc.equal(batch["finish_reason"], reason)), any_order
    for column in SCORES:
        score = _floats(batch[column])
        if not np.isnan(score).all():
            yield column, is_ok & ~np.isnan(score), score
    flags = batch["flags"].combine_chunks()
    parents, flat = pc.list_parent_indices(flags).to_numpy(), pc.list_flatten(flags)
    for flag in pc.unique(flat).to_pylist():
        mask = np.zeros(batch.num_rows, bool)
        mask[parents[_bools(pc.equal(flat, flag))]] = True
        yield f"flag:{flag}", mask, any_order
    for name in pc.unique(status).to_pylist():
        if name != OK:
            yield f"status:{name}", _bools(pc.equal(status, name)), any_order


def _bools(mask: Any) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.asarray(pc.fill_null(mask, False)).astype(bool)
    return found


def _floats(column: Any) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.asarray(pc.fill_null(pc.cast(column, pa.float64()), np.nan), np.float64)
    return found
