"""Scores an output shard by shard: captions and images in, files of scores out.

One thread reads images across shards; the scorer takes them as they come; a shard's file is written when its last score
is there. What is written stays, so the same command goes on where another one stopped.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field

import numpy as np

from recap_fast.addresses import public_url, scrub
from recap_fast.errors import RecapError, ShardError, StoppedError
from recap_fast.joined import JoinedOutput
from recap_fast.progress import OnProgress, unwatched
from recap_fast.records import UNREADABLE, Shard
from recap_fast.score.ahead import StalledError, ahead
from recap_fast.score.images import CHANGED, GONE, open_captions
from recap_fast.score.sample import Sample
from recap_fast.score.score_files import ScoreFiles, ShardScores
from recap_fast.score.scorer import Pair, Score, Scorer
from recap_fast.shards.ahead import ReadAhead, Upcoming
from recap_fast.shards.patience import read_timeout
from recap_fast.shards.patience import unwatched as waiting
from recap_fast.shards.reader import ShardReader, open_shard
from recap_fast.text import counted
from recap_fast.write.done_record import read_record

NUM_THREADS = 32
"""How many threads ask which shards are finished and scored: over a network each answer takes its time."""
NUM_WAITING = 8
"""Images that are read before they are asked for."""
_LOST = {
    GONE: "cannot be found any more",
    CHANGED: "changed after the run",
    UNREADABLE: "could not be read, and the next call tries again",
}


@dataclass(frozen=True, slots=True)
class _Finished:
    """A shard that has all its captions."""

    shard: Shard
    captions: str
    """The SHA-256 of the file of captions, in hex."""
    num_captions: int
    is_scored: bool


@dataclass
class _Work:
    """A shard that is being scored."""

    scores: ShardScores
    lost: Counter[str] = field(default_factory=Counter)
    """Images that are not to be had, by note. The reading thread counts them."""
    num_sent: int = 0
    """Pairs that were given to the scorer."""
    num_scored: int = 0
    is_read: bool = False
    """Whether no pair will follow."""

    def take(self, score: Score) -> None:
        """Adds the score of a row."""
        place = int(np.searchsorted(self.scores.indices, score.index))
        self.scores.re[place] = np.nan if score.re is None else score.re
        self.scores.org[place] = np.nan if score.org is None else score.org
        self.scores.counts.update(score.notes)
        self.num_scored += 1

    @property
    def is_over(self) -> bool:
        return self.is_read and self.num_scored == self.num_sent


@dataclass
class Scoring:
    """One call of the command."""

    joined: JoinedOutput
    scorer: Scorer
    progress: OnProgress = unwatched
    """Told how many captions have a score, and how many shall have one."""
    sample: Sample | None = None
    """Which images are scored; None: all."""
    check: Callable[[], None] = lambda: None
    """Asked again and again; raises what is to end the work."""
    num_scored: int = 0
    """Images that got their scores in this call."""
    num_shards: int = 0
    """Shards whose file was written in this call."""
    num_unfinished: int = 0
    """Shards that have not all of their captions yet."""
    lost: Counter[str] = field(default_factory=Counter)
    """Images that were not to be had in this call, by note."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why shards could not be scored."""
    captions: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of the captions of each finished shard."""
    _open: dict[str, _Work] = field(default_factory=dict)
    _reading: str | None = None
    """The shard being read."""
    _total: int = 0
    """Images that shall have scores; with a sample, about so many."""
    _num_captions: int = 0
    """Of all finished shards."""

    @property
    def files(self) -> ScoreFiles:
        """What is written."""
        return ScoreFiles(self.joined.output, self.scorer.kind)

    def run(self) -> float:
        """Scores what has no scores yet, and returns the seconds that it took. What fails of a shard is in `failed`,
        and the others go on.

        Raises RecapError and OSError where the output or the scorer fails.
        """
        begun = time.monotonic()
        finished = self._find()
        self.captions = {each.shard.name: each.captions for each in finished}
        left = [each for each in finished if not each.is_scored]
        self._num_captions = sum(each.num_captions for each in finished)
        self._total = sum(each.num_captions for each in left)
        if self.sample is not None:
            self._total = self.sample.expected(self._total, self._num_captions)
        while left:
            self.progress(self.num_scored, self._total)
            try:
                self._score(left)
                break
            except StalledError as error:
                assert self._reading is not None
                self.failed[self._reading] = str(error)
                left = [each for each in left if each.shard.name not in self.failed and not self._is_written(each)]
                self._open.clear()
        return time.monotonic() - begun

    def describe(self, counts: Mapping[str, int]) -> Iterator[str]:
        """Sentences for people about the counts of notes."""
        for note, what in _LOST.items():
            if number := counts.get(note):
                lack = "has no score: it" if number == 1 else "have no score: they"
                yield f"{counted(number, 'image')} {lack} {what}"
        yield from self.scorer.describe(counts)

    def _find(self) -> list[_Finished]:
        """The finished shards among those whose inputs are known."""

        def find(shard: Shard) -> _Finished | None:
            record = read_record(self.joined.output, shard.name)
            if record is None or record.output is None or record.status not in ("complete", "truncated"):
                return None
            digest = record.output.sha256
            return _Finished(shard, digest, record.captioned, self.files.is_scored(shard.name, digest))

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            found = list(pool.map(find, self.joined.shards))
        self.num_unfinished = found.count(None)
        return [each for each in found if each is not None]

    def _is_written(self, finished: _Finished) -> bool:
        return self.files.is_scored(finished.shard.name, finished.captions)

    def _score(self, todo: Sequence[_Finished]) -> None:
        is_over = threading.Event()
        pairs = ahead(self._pairs(todo, is_over.is_set), NUM_WAITING, "recap-read", read_timeout())
        try:
            for score in self.scorer.score(pairs, self._total - self.num_scored):
                self.check()
                work = self._open.get(score.shard)
                if work is not None:
                    work.take(score)
                    self.num_scored += 1
                    self.progress(self.num_scored, self._total)
                self._write_what_is_over()
        finally:
            is_over.set()
        self._write_what_is_over()

    def _write_what_is_over(self) -> None:
        for name, work in list(self._open.items()):
            if work.is_over:
                del self._open[name]
                work.scores.counts.update(work.lost)
                self.files.write(name, work.scores)
                self.num_shards += 1
                self.lost += work.lost

    def _pairs(self, todo: Sequence[_Finished], should_stop: Callable[[], bool]) -> Generator[Pair]:
        """The pairs of all shards, one shard after another; runs on the reading thread."""
        by_name = {each.shard.name: each for each in todo}
        with closing(ReadAhead([each.shard for each in todo], self._open_input, should_stop)) as shards:
            while True:
                with waiting():
                    upcoming = shards.take()
                if upcoming is None:
                    return
                self._reading = upcoming.shard.name
                try:
                    yield from self._pairs_of(upcoming, by_name[upcoming.shard.name])
                except StoppedError:
                    raise
                except (RecapError, OSError) as error:
                    self._open.pop(upcoming.shard.name, None)
                    self.failed[upcoming.shard.name] = scrub(str(error))

    def _pairs_of(self, upcoming: Upcoming, finished: _Finished) -> Iterator[Pair]:
        name = finished.shard.name
        with upcoming.open() as reader, ExitStack() as files:
            with waiting():
                captions = files.enter_context(open_captions(self.joined.output, name, finished.captions))
            if self.sample is not None:
                captions.wanted = captions.wanted[self.sample.chosen(name, captions.wanted, self._num_captions)]
            work = self._open[name] = _Work(ShardScores.empty(finished.captions, captions.indices))
            for pair in captions.pairs(reader, work.lost):
                work.num_sent += 1
                yield pair
            if work.lost and not work.num_sent:
                where = public_url(finished.shard.url)
                raise ShardError(f"none of its images is in {where} as it was captioned: give --shards or --relocate.")
            work.is_read = True

    def _open_input(self, shard: Shard, should_stop: Callable[[], bool]) -> AbstractContextManager[ShardReader]:
        return open_shard(shard, self.joined.selection, should_stop)
