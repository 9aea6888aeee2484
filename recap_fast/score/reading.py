"""The reading thread of scoring: finished captions and their images, shard after shard."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recap_fast.addresses import public_url, scrub
from recap_fast.errors import RecapError, ShardError, StoppedError
from recap_fast.joined import JoinedOutput
from recap_fast.records import Shard
from recap_fast.score.images import open_captions
from recap_fast.score.score_files import ShardScores
from recap_fast.score.scorer import Pair, Score
from recap_fast.shards.ahead import ReadAhead, Upcoming
from recap_fast.shards.patience import unwatched
from recap_fast.shards.reader import ShardReader, open_shard

Choose: TypeAlias = Callable[[str, NDArray[np.int64]], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Finished:
    """A shard that has all its captions."""

    shard: Shard
    captions: str
    """The SHA-256 of the file of captions, in hex."""
    num_captions: int
    is_scored: bool


@dataclass
class Work:
    """A shard that is being scored."""

    scores: ShardScores
    lost: Counter[str] = field(default_factory=Counter)
    """Number of images that cannot be had, by note. The reading thread counts them."""
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
        """Whether every pair has its score."""
        return self.is_read and self.num_scored == self.num_sent


@dataclass
class Reading:
    """Reads the images of an output."""

    joined: JoinedOutput
    choose: Choose | None = None
    """Says which of a shard's rows that have captions are wanted; None: all."""
    work: dict[str, Work] = field(default_factory=dict)
    """The shards that were begun and not taken out yet, by name."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why shards could not be read."""
    shard: str | None = None
    """The one being read."""

    def pairs(self, todo: Sequence[Finished], should_stop: Callable[[], bool]) -> Generator[Pair]:
        """The pairs of all shards, one shard after another."""
        by_name = {each.shard.name: each for each in todo}
        with closing(ReadAhead([each.shard for each in todo], self._open_input, should_stop)) as shards:
            while True:
                with unwatched():
                    upcoming = shards.take()
                if upcoming is None:
                    return
                self.shard = name = upcoming.shard.name
                try:
                    yield from self._pairs_of(upcoming, by_name[name])
                except StoppedError:
                    raise
                except (RecapError, OSError) as error:
                    self.work.pop(name, None)
                    self.failed[name] = scrub(str(error))

    def _pairs_of(self, upcoming: Upcoming, finished: Finished) -> Iterator[Pair]:
        name = finished.shard.name
        with upcoming.open() as reader, ExitStack() as files:
            with unwatched():
                captions = files.enter_context(open_captions(self.joined.output, name, finished.captions))
            if self.choose is not None:
                captions.wanted = captions.wanted[self.choose(name, captions.wanted)]
            work = self.work[name] = Work(ShardScores.empty(finished.captions, captions.indices))
            for pair in captions.pairs(reader, work.lost):
                work.num_sent += 1
                yield pair
            if work.lost and not work.num_sent:
                where = public_url(finished.shard.url)
                raise ShardError(
                    f"{where} has none of its images as they were captioned. If they have moved, add "
                    "--relocate OLD=NEW."
                )
            work.is_read = True

    def _open_input(self, shard: Shard, should_stop: Callable[[], bool]) -> AbstractContextManager[ShardReader]:
        return open_shard(shard, self.joined.selection, should_stop)
