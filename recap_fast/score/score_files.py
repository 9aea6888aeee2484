"""The files of scores: one for each shard beside its captions, and one with the settings of all of them.

A file is whole or not there, and names the captions that it was made of: it counts for no others.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recap_fast.errors import ConfigError, RecapError
from recap_fast.records import UNREADABLE
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.rows import CAPTIONS_KEY, SCORES
from recap_fast.write.schema import SCHEMA
from recap_fast.write.typed_json import read_json, typed

FORMAT = 1
MAX_BYTES = 1 << 20
COUNTS_KEY = "recap_fast.counts"
"""Parquet metadata of a file of scores: how many of its rows have each note, as JSON."""
SETTINGS_KEY = "recap_fast.settings"
"""Parquet metadata of a file of scores: model or judge and all else that decided about them, as JSON."""
LARGEST, STEP = 100.0, 0.01
"""Scores are between -LARGEST and LARGEST; medians are found to one STEP."""


@dataclass(frozen=True, slots=True)
class ShardScores:
    """The scores of a shard's rows, in the order of its captions."""

    captions: str
    """The SHA-256 of the file of captions, in hex."""
    indices: NDArray[np.int64]
    re: NDArray[np.float64]
    """Scores of the new captions; NaN where there is none."""
    org: NDArray[np.float64]
    """Scores of the original captions; NaN where there is none."""
    counts: Counter[str] = field(default_factory=Counter)
    """Number of rows with each note."""

    @classmethod
    def empty(cls, captions: str, indices: NDArray[np.int64]) -> "ShardScores":
        """No row has a score yet."""
        return cls(captions, indices, np.full(len(indices), np.nan), np.full(len(indices), np.nan))


@dataclass(slots=True)
class Statistics:
    """Mean and median of one column of scores."""

    number: int = 0
    """Rows that have a score."""
    total: float = 0.0
    _bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(round(2 * LARGEST / STEP) + 1, np.int64))

    def add(self, values: NDArray[np.float64]) -> None:
        """More scores."""
        places = np.rint((values + LARGEST) / STEP).astype(np.int64).clip(0, len(self._bins) - 1)
        self._bins += np.bincount(places, minlength=len(self._bins))
        self.number += len(values)
        self.total += float(values.sum())

    @property
    def mean(self) -> float | None:
        """None where there is no score."""
        return self.total / self.number if self.number else None

    @property
    def median(self) -> float | None:
        """Rounded to a `STEP`; None where there is no score."""
        if not self.number:
            return None
        middle = [(self.number - 1) // 2, self.number // 2]
        places = np.searchsorted(self._bins.cumsum(), middle, side="right")
        return float(np.round(places.mean() * STEP - LARGEST, 3))


@dataclass(slots=True)
class Totals:
    """Totals of all scores of one kind in an output."""

    rows: int = 0
    re: Statistics = field(default_factory=Statistics)
    org: Statistics = field(default_factory=Statistics)
    counts: Counter[str] = field(default_factory=Counter)
    """Number of rows with each note."""

    def as_json(self) -> dict[str, Any]:
        """For the file of settings."""
        sides = {
            name: {"scored": side.number, "mean": side.mean, "median": side.median}
            for name, side in (("re", self.re), ("org", self.org))
        }
        return {"rows": self.rows, **sides, "counts": dict(self.counts)}


@dataclass(frozen=True, slots=True)
class _Settings:
    """The part of the file of settings that decides about scores."""

    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ScoreFiles:
    """The files of one kind of scores in an output."""

    output: OutputFolder
    kind: str

    def begin(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        """Writes the settings, or makes sure that they are those of the scores that are there.

        `overwrite` removes scores of other settings. Raises ConfigError.
        """
        old = self._settings(overwrite)
        if old == settings:
            return
        store, folder = self.output.store, self.output.scores(self.kind, "").rpartition("/")[0]
        if _what_decides(old) != _what_decides(settings):
            files = list(store.list(folder))
            if old and files and not overwrite:
                raise ConfigError(_refusal(self.output, self.kind, old, settings))
            store.delete(file.name for file in files)
        self._put({"settings": settings})

    def is_scored(self, shard: str, captions: str, settings: Mapping[str, Any]) -> bool:
        """Whether there are scores of these captions, by their SHA-256, with these settings.

        A file that is damaged has none, and one without those of images that could not be read is to be made again.
        """
        try:
            with self._open(shard) as file:
                is_ours = _made_of(file) == captions and _made_with(file, settings)
                return is_ours and not _counts(file).get(UNREADABLE)
        except (FileNotFoundError, pa.ArrowException):
            return False

    def write(self, shard: str, scores: ShardScores, settings: Mapping[str, Any]) -> None:
        """Writes the file of a shard, whole or not at all. Raises RecapError as `end`."""
        self._check_alone(settings)
        name = self.output.scores(self.kind, shard)
        with self.output.store.draft(name) as draft:
            pq.write_table(_table(self.kind, shard, scores, settings), draft)
            self.output.store.publish(draft, name)

    def end(self, settings: Mapping[str, Any], captions: Mapping[str, str]) -> Totals:
        """Adds up all scores of these captions, by shard, and writes the totals beside the settings.

        Raises RecapError where another command wrote scores of other settings meanwhile.
        """
        totals = Totals()
        self._check_alone(settings)
        for shard, digest in captions.items():
            with contextlib.suppress(FileNotFoundError, pa.ArrowException), self._open(shard) as file:
                if _made_of(file) == digest:
                    if not _made_with(file, settings):
                        raise self._not_alone()
                    _add(totals, file, SCORES[self.kind])
        self._put({"settings": settings, "totals": totals.as_json()})
        return totals

    def _check_alone(self, settings: Mapping[str, Any]) -> None:
        if _what_decides(self._settings(overwrite=True)) != _what_decides(settings):
            raise self._not_alone()

    def _not_alone(self) -> RecapError:
        return RecapError(
            f"Another command wrote {self.kind} scores of other settings to {self.output.address} meanwhile. Run "
            "one at a time: the same command says what is there, or makes what is missing."
        )

    @contextlib.contextmanager
    def _open(self, shard: str) -> Iterator[pq.ParquetFile]:
        """Raises FileNotFoundError and pa.ArrowException."""
        with self.output.store.local(self.output.scores(self.kind, shard)) as path, pq.ParquetFile(path) as file:
            yield file

    def _settings(self, overwrite: bool) -> Mapping[str, Any]:
        """The settings of the scores that are there; empty where there are none, or they are to be replaced anyway."""
        name = self.output.score_settings(self.kind)
        try:
            return typed(_Settings, read_json(self.output.store, name, FORMAT, MAX_BYTES)).settings
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            if self.output.is_out_of_reach(error):
                raise
            if overwrite:
                return {}
            shown = self.output.store.shown(name)
            raise ConfigError(
                f"{shown} cannot be read ({error}): give --overwrite to score everything again."
            ) from error

    def _put(self, content: Mapping[str, Any]) -> None:
        text = json.dumps({"format": FORMAT, **content}, indent=2) + "\n"
        self.output.store.put(self.output.score_settings(self.kind), text.encode())


def _made_of(file: pq.ParquetFile) -> str:
    """The SHA-256 of the captions that the scores of a file are of."""
    digest: bytes = (file.metadata.metadata or {}).get(CAPTIONS_KEY.encode(), b"")
    return digest.decode("ascii", "replace")


def _made_with(file: pq.ParquetFile, settings: Mapping[str, Any]) -> bool:
    """Whether the scores of a file have these settings."""
    told = json.loads((file.metadata.metadata or {}).get(SETTINGS_KEY.encode(), b"{}"))
    return isinstance(told, dict) and _what_decides(told) == _what_decides(settings)


def _counts(file: pq.ParquetFile) -> dict[str, int]:
    counts: dict[str, int] = json.loads((file.metadata.metadata or {}).get(COUNTS_KEY.encode(), b"{}"))
    return counts


def _add(totals: Totals, file: pq.ParquetFile, columns: Sequence[str]) -> None:
    totals.rows += file.metadata.num_rows
    totals.counts.update(_counts(file))
    for batch in file.iter_batches(columns=list(columns)):
        for side, column in zip((totals.re, totals.org), batch.columns, strict=True):
            side.add(column.drop_null().cast(pa.float64()).to_numpy())


def _table(kind: str, shard: str, scores: ShardScores, settings: Mapping[str, Any]) -> pa.Table:
    columns = {"shard": pa.repeat(shard, len(scores.indices)), "index": pa.array(scores.indices)}
    for name, values in zip(SCORES[kind], (scores.re, scores.org), strict=True):
        columns[name] = pa.array(values, mask=np.isnan(values)).cast(SCHEMA.field(name).type)
    return pa.table(columns).replace_schema_metadata(
        {CAPTIONS_KEY: scores.captions, COUNTS_KEY: json.dumps(scores.counts), SETTINGS_KEY: json.dumps(settings)}
    )


def _what_decides(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the judge's address: the port of a local server may change."""
    return {name: value for name, value in settings.items() if name != "endpoint"}


def _refusal(output: OutputFolder, kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Names what differs."""
    before, now = _flat(_what_decides(old)), _flat(_what_decides(new))
    lines = (
        f"  {name}: {before.get(name)!r:.80} there, {now.get(name)!r:.80} now"
        for name in [*before, *(name for name in now if name not in before)]
        if before.get(name) != now.get(name)
    )
    return (
        f"{output.address} has {kind} scores of other settings, and mixing both would be a mistake:\n"
        + "\n".join(lines)
        + "\nGive the settings of those scores, or --overwrite to replace them."
    )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With the digests of files beside the other settings."""
    files = settings.get("files")
    digests = files if isinstance(files, Mapping) else {}
    return {**{name: value for name, value in settings.items() if name != "files"}, **digests}
