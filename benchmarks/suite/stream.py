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
    """Of which all captions have ended: captions over captions an image."""
    seconds: float
    done: Statistics
    """In that window."""

    @property
    def images_per_s(self) -> float:
        """Images whose captions ended, a second."""
        return self.images / self.seconds


class Stream:
    """An engine that always has images with captions of these lengths, in turn, before it."""

    def __init__(
        self,
        engine: Engine,
        lengths: Sequence[int],
        prefill_images: int,
        pixels: NDArray[np.uint8],
        text_ids: NDArray[np.int32],
        captions: int = 1,
    ):
        """`prefill_images` join a step while slots are filled, and with several captions an image each other step."""
        self.engine, self._pixels, self._text, self._captions = engine, pixels, text_ids, captions
        joining = prefill_images if captions == 1 else max(1, prefill_images // 2)
        first = first_lengths(lengths, engine.free_slots // captions, joining)
        self._num_full = len(first)
        self._groups = itertools.starmap(self._group, enumerate(itertools.chain(first, itertools.cycle(lengths))))

    def advance(self) -> int:
        """One step; how many captions have ended."""
        groups = itertools.islice(self._groups, self.engine.free_slots // self._captions)
        self.engine.submit(list(itertools.chain.from_iterable(groups)))
        return len(self.engine.step(more=True))

    def window(self, seconds: float) -> Counted:
        """Fills the slots where they are not, and counts for so long, and for one turnover of the slots at the least:
        that has as many ends as captions were running, however even they are."""
        statistics = self.engine.statistics
        while statistics.images < self._num_full:
            self.advance()
        before, start, ended, elapsed = snapshot(statistics), time.perf_counter(), 0, 0.0
        while elapsed < seconds or ended < self._num_full * self._captions:
            ended += self.advance()
            elapsed = time.perf_counter() - start
        return Counted(ended // self._captions, elapsed, difference(before, statistics))

    def _group(self, image: int, length: int) -> list[Request]:
        """The requests of an image."""
        pixels, lead = self._pixels[image % len(self._pixels)], image * self._captions
        return [
            Request(lead + i, pixels, self._text, length, same_image_as=lead if i else None)
            for i in range(self._captions)
        ]
