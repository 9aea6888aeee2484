"""Loop stop: notices that a caption has fallen into repetition, as captioners do on a few percent of web images.

Works on token ids, one new id a running caption and step, for all slots at once. A caption is in a loop when its last
tokens repeat with one period: `MIN_CYCLES` whole repetitions after the first time, and `MIN_TOKENS` tokens at least,
so that neither "very, very" nor a short list is taken for one.
"""

import numpy as np
from numpy.typing import NDArray

MAX_PERIOD = 32
MIN_CYCLES = 3
MIN_TOKENS = 16


class LoopDetector:
    """For each slot and period p, how many of the newest tokens equal the one p before them."""

    def __init__(self, num_slots: int):
        self._periods = np.arange(1, MAX_PERIOD + 1)
        self._needed = np.maximum(MIN_CYCLES * self._periods, MIN_TOKENS)
        self._recent = np.full((num_slots, MAX_PERIOD), -1, np.int32)
        """The newest tokens of each slot, the newest first."""
        self._matches = np.zeros((num_slots, MAX_PERIOD), np.int32)

    def start(self, slots: NDArray[np.int64]) -> None:
        self._recent[slots] = -1
        self._matches[slots] = 0

    def update(self, slots: NDArray[np.int64], tokens: NDArray[np.int32]) -> NDArray[np.int64]:
        """Adds one token to each slot. Returns for each how many tokens to drop from its end: 0 where no loop is.

        What is dropped is the repetition: all but the first time round.
        """
        recent = self._recent[slots]
        matches = (self._matches[slots] + 1) * (recent == tokens[:, None])
        self._matches[slots] = matches
        self._recent[slots, 1:] = recent[:, :-1]
        self._recent[slots, 0] = tokens
        repeated: NDArray[np.int64] = np.where(matches >= self._needed, matches, 0).max(axis=1).astype(np.int64)
        return repeated
