"""Keeps an engine full, and counts what it does in a steady state.

A run over a million images has next to no filling of slots and no emptying. So captions are counted once all slots are
taken, and the first captions are cut so that their ends are even from then on, as if each had been met midway: nothing
has to run until the order of the start is forgotten. What ends is then one caption a turnover of a slot, whether it
began before the count or not. Keys and values of 128 tokens are up to five percent short at first, a half percent of a
step.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recap_fast.bench.roofline import difference, snapshot
from recap_fast.bench.synthetic import first_lengths
from recap_fast.generate.engine import Engine, Statistics
from recap_fast.records import Request


@dataclass(frozen=True)
class Counted:
    """What an engine did in a window of time."""

    images: int
    """Captions that ended."""
    seconds: float
    done: Statistics
    """In that window."""

    @property
    def images_per_s(self) -> float:
        """Captions that ended, a second."""
        return self.images / self.seconds


class Stream:
    """An engine that always has captions of these lengths, in turn, before it."""

    def __init__(
        self,
        engine: Engine,
        lengths: Sequence[int],
        prefill_images: int,
        pixels: NDArray[np.uint8],
        text_ids: NDArray[np.int32],
    ):
        """`prefill_images` join a step while slots are filled."""
        self.engine, self._pixels, self._text = engine, pixels, text_ids
        first = first_lengths(lengths, engine.free_slots, prefill_images)
        self._num_full = len(first)
        self._requests = itertools.starmap(self._request, enumerate(itertools.chain(first, itertools.cycle(lengths))))

    def advance(self) -> int:
        """One step; how many captions have ended."""
        self.engine.submit(list(itertools.islice(self._requests, self.engine.free_slots)))
        return len(self.engine.step())

    def window(self, seconds: float) -> Counted:
        """Fills the slots where they are not, and counts for so long, and for one turnover of the slots at the least:
        that has as many ends as captions were running, however even they are."""
        statistics = self.engine.statistics
        while statistics.images < self._num_full:
            self.advance()
        before, start, images, elapsed = snapshot(statistics), time.perf_counter(), 0, 0.0
        while elapsed < seconds or images < self._num_full:
            images += self.advance()
            elapsed = time.perf_counter() - start
        return Counted(images, elapsed, difference(before, statistics))

    def _request(self, number: int, length: int) -> Request:
        return Request(number, self._pixels[number % len(self._pixels)], self._text, length)
