"""How many images all shards of a run have, and how many bytes, before any image is read.

In go shards, out comes a `Census`: what was counted, by where the number stands, and what was estimated from how much.
Sizes, img2dataset's `_stats.json`, the footers of Parquet files and the listings of folders are cheap: they are asked
for every shard. Headers of tars are not (25 us an image, and over a network more): they are read in tars that are
spread evenly over the others, and what these others have is estimated by their bytes.
"""

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from recap_fast.addresses import is_remote, public_url
from recap_fast.progress import OnProgress, unwatched
from recap_fast.records import Selection, Shard
from recap_fast.shards.counting import NUM_THREADS, Count, Origin, count_cheaply, count_headers, look_up
from recap_fast.shards.patience import side_by_side

_GOLDEN = (math.sqrt(5) - 1) / 2


class Effort(NamedTuple):
    """Headers are read of so many tars, and of as many again until they have so many images."""

    tars: int
    images: int


LOCAL, REMOTE = Effort(16, 100_000), Effort(8, 1)


@dataclass(frozen=True, slots=True)
class Tally:
    """Shards, and what they have."""

    shards: int = 0
    images: int = 0
    size_bytes: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.shards + other.shards, self.images + other.images, self.size_bytes + other.size_bytes)


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """What tars have whose images were not counted, by the images in a byte of others or of their own first bytes."""

    tally: Tally
    sample: Tally
    """From how much this is estimated; the bytes are those that were looked through. It may be of the `tally`, too."""
    margin: float | None
    """Two standard errors of the images, as a share of them; None where the sample is one tar or none."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A shard that cannot be read, or not to its end."""

    url: str
    """Without what may be secret."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What all shards have."""

    counted: Mapping[Origin, Tally]
    estimated: tuple[Extrapolation, ...]
    """Of local tars and of remote ones."""
    unreadable: Tally
    """They have no images here, and will have no rows."""
    problems: tuple[Problem, ...]
    """Of the shards that were looked at."""

    @property
    def total(self) -> Tally:
        """All of it; shards that cannot be read are there with their bytes."""
        parts = (*self.counted.values(), *(each.tally for each in self.estimated), self.unreadable)
        return sum(parts, Tally())

    @property
    def num_estimated(self) -> int:
        """The images that were not counted."""
        return sum(each.tally.images for each in self.estimated)


def take_census(shards: Sequence[Shard], selection: Selection, progress: OnProgress = unwatched) -> Census:
    """Counts the rows that shards will have; `progress` is told how many of the shards are looked at."""
    done, lock = itertools.count(1), threading.Lock()

    def look(by: Callable[[Count, Selection], Count], counts: Sequence[Count]) -> list[Count]:
        def one(count: Count) -> Count:
            found = by(count, selection)
            if found.is_settled:
                with lock:
                    progress(next(done), len(shards))
            return found

        return side_by_side(one, counts, NUM_THREADS)

    counts = look(count_cheaply, look_up(shards))
    settled, others = _parted(counts, lambda count: count.is_settled)
    known = [count for count in settled if count.origin == "stats"]
    estimated = []
    for tars, effort in zip(
        _parted(others, lambda count: not is_remote(count.shard.url)), (LOCAL, REMOTE), strict=True
    ):
        sample, rest = _sample(tars, effort, lambda counts: look(count_headers, counts))
        whole, parts = _parted(sample, lambda count: count.is_whole or count.images is None)
        settled += whole
        if rest or parts:
            seen = [count for count in sample if count.images is not None and count.seen_bytes]
            estimated.append(extrapolate([*rest, *parts], seen or known))
    progress(len(shards), len(shards))
    return _census(settled, tuple(estimated))


def _parted(counts: Iterable[Count], belongs: Callable[[Count], bool]) -> tuple[list[Count], list[Count]]:
    """Those that belong to it, and the others."""
    both: tuple[list[Count], list[Count]] = [], []
    for count in counts:
        both[not belongs(count)].append(count)
    return both


def _sample(
    tars: Sequence[Count], effort: Effort, look: Callable[[Sequence[Count]], list[Count]]
) -> tuple[list[Count], list[Count]]:
    """Tars whose headers were looked at, and the others."""
    # by their places' multiples of the golden ratio, any number of the first are spread evenly over all
    order = sorted(range(len(tars)), key=lambda place: place * _GOLDEN % 1)
    sample: list[Count] = []
    while len(sample) < len(tars) and sum(count.images or 0 for count in sample) < effort.images:
        places = order[len(sample) : len(sample) + effort.tars]
        sample += look([tars[place] for place in places])
    return sample, [tars[place] for place in order[len(sample) :]]


def extrapolate(tars: Sequence[Count], sample: Sequence[Count]) -> Extrapolation:
    """What tars have by their sizes, if they have as many images in a byte as the sample, which may be empty."""
    images, seen_bytes = sum(count.images or 0 for count in sample), sum(count.seen_bytes for count in sample)
    rate = images / max(seen_bytes, 1)
    size_bytes = sum(count.size_bytes for count in tars)
    margin = None
    if len(sample) > 1 and images:
        # of the ratio of two sums (Cochran, Sampling Techniques, chapter 6)
        squares = sum(((count.images or 0) - rate * count.seen_bytes) ** 2 for count in sample)
        margin = 2 * math.sqrt(squares / (len(sample) - 1) * len(sample)) / images
    tally = Tally(len(tars), round(rate * size_bytes), size_bytes)
    return Extrapolation(tally, Tally(len(sample), images, seen_bytes), margin)


def _census(settled: Iterable[Count], estimated: tuple[Extrapolation, ...]) -> Census:
    counted: dict[Origin, Tally] = {}
    unreadable, problems = Tally(), []
    for count in settled:
        tally = Tally(1, count.images or 0, count.size_bytes)
        if count.problem is not None:
            problems.append(Problem(public_url(count.shard.url), count.problem))
        if count.origin is None:
            unreadable += tally
        else:
            counted[count.origin] = counted.get(count.origin, Tally()) + tally
    return Census(counted=counted, estimated=estimated, unreadable=unreadable, problems=tuple(problems))
