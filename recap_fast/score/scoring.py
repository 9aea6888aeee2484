"""Scores an output shard by shard: captions and images in, files of scores out.

One thread reads images across shards; the scorer takes them as they come; a shard's file is written when its last score
is there. What is written stays, so the same command goes on where another one stopped.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recap_fast.joined import JoinedOutput
from recap_fast.progress import OnProgress, unwatched
from recap_fast.records import Shard
from recap_fast.score.ahead import StalledError, ahead
from recap_fast.score.reading import Finished, Reading
from recap_fast.score.sample import Sample
from recap_fast.score.score_files import ScoreFiles, Totals
from recap_fast.score.scorer import Scorer
from recap_fast.shards.patience import read_timeout
from recap_fast.write.card import write_configs
from recap_fast.write.done_record import read_record

NUM_THREADS = 32
"""How many threads ask which shards are finished and scored: over a network each answer takes its time."""
NUM_WAITING = 8
"""Images that are read before they are asked for."""


@dataclass
class Scoring:
    """One call of the command."""

    joined: JoinedOutput
    scorer: Scorer
    progress: OnProgress = unwatched
    """Called with the number of images that have scores, and the number that will have them."""
    sample: Sample | None = None
    """Which images are scored; None: all."""
    check: Callable[[], None] = lambda: None
    """Called for each score; it raises what is to end the work."""
    num_scored: int = 0
    """Images that got their scores in this call."""
    num_shards: int = 0
    """Shards whose file was written in this call."""
    num_unfinished: int = 0
    """Shards that have not all of their captions yet."""
    seconds: float = 0.0
    """Time for finding what has no scores, and for scoring it."""
    lost: Counter[str] = field(default_factory=Counter)
    """Number of images that could not be had in this call, by note."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why shards could not be scored."""
    _total: int = 0
    """Images that shall have scores; with a sample, about so many."""
    _num_captions: int = 0
    """Captions of all finished shards."""

    @property
    def files(self) -> ScoreFiles:
        """What is written."""
        return ScoreFiles(self.joined.output, self.scorer.kind)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides about scores."""
        return {**self.scorer.settings, **(self.sample.settings if self.sample else {})}

    def run(self, overwrite: bool = False) -> Totals:
        """Scores what has no scores yet; `overwrite` replaces scores of other settings. Returns the totals of all.

        What fails of a shard is in `failed`, and the others go on. Raises ConfigError for scores of other settings, and
        RecapError or OSError where the output or the scorer fails.
        """
        self.files.begin(self.settings, overwrite)
        begun = time.monotonic()
        finished = self._find()
        self._num_captions = sum(each.num_captions for each in finished)
        self._score_all([each for each in finished if not each.is_scored])
        self.seconds = time.monotonic() - begun
        totals = self.files.end(self.settings, {each.shard.name: each.captions for each in finished})
        write_configs(self.joined.output)
        return totals

    def _find(self) -> list[Finished]:
        """The finished shards among those whose inputs are known."""

        settings = self.settings

        def find(shard: Shard) -> Finished | None:
            record = read_record(self.joined.output, shard.name)
            if record is None or record.output is None or record.status not in ("complete", "truncated"):
                return None
            digest = record.output.sha256
            return Finished(shard, digest, record.captioned, self.files.is_scored(shard.name, digest, settings))

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            found = list(pool.map(find, self.joined.shards))
        self.num_unfinished = found.count(None)
        return [each for each in found if each is not None]

    def _score_all(self, todo: Sequence[Finished]) -> None:
        """Where reading hangs, its shard has failed, and those that are not written yet are begun anew."""
        self._total = sum(each.num_captions for each in todo)
        if self.sample is not None:
            self._total = self.sample.expected(self._total, self._num_captions)
        self.progress(0, self._total)
        while todo:
            reading = Reading(self.joined, self._choose if self.sample else None, failed=self.failed)
            try:
                self._score(reading, todo)
            except StalledError as error:
                assert reading.shard is not None
                self.failed[reading.shard] = str(error)
                todo = [each for each in todo if each.shard.name not in self.failed and not self._is_written(each)]
            else:
                return

    def _choose(self, shard: str, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        assert self.sample is not None
        return self.sample.chosen(shard, indices, self._num_captions)

    def _is_written(self, finished: Finished) -> bool:
        return self.files.is_scored(finished.shard.name, finished.captions, self.settings)

    def _score(self, reading: Reading, todo: Sequence[Finished]) -> None:
        is_over = threading.Event()
        pairs = ahead(reading.pairs(todo, is_over.is_set), NUM_WAITING, "recap-read", read_timeout())
        try:
            for score in self.scorer.score(pairs, self._total - self.num_scored):
                self.check()
                if (work := reading.work.get(score.shard)) is not None:
                    work.take(score)
                    self.num_scored += 1
                    self.progress(self.num_scored, self._total)
                self._write_what_is_over(reading)
        finally:
            is_over.set()
        self._write_what_is_over(reading)

    def _write_what_is_over(self, reading: Reading) -> None:
        for name, work in list(reading.work.items()):
            if work.is_over:
                del reading.work[name]
                work.scores.counts.update(work.lost)
                self.files.write(name, work.scores, self.settings)
                self.num_shards += 1
                self.lost += work.lost
