"""The vectorised loop detector beside the definition of a loop, written out slowly."""

import numpy as np
import scenes
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.generate.loop_detector import MAX_PERIOD, MIN_CYCLES, MIN_TOKENS, LoopDetector


def repeated(tokens: list[int]) -> int:
    """The most tokens at the end that repeat those one period before them, if that is enough for a loop; else 0."""
    best = 0
    for period in range(1, MAX_PERIOD + 1):
        run = 0
        while run + period < len(tokens) and tokens[-1 - run] == tokens[-1 - run - period]:
            run += 1
        if run >= max(MIN_CYCLES * period, MIN_TOKENS):
            best = max(best, run)
    return best


def detect(tokens: list[int]) -> list[int]:
    detector, slot = LoopDetector(1), np.zeros(1, np.int64)
    return [int(detector.update(slot, np.array([t], np.int32))[0]) for t in tokens]


@given(
    start=st.lists(st.integers(0, 3), max_size=20),
    cycle=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    times=st.integers(1, 8),
)
def test_equals_the_definition(start: list[int], cycle: list[int], times: int) -> None:
    tokens = start + cycle * times
    assert detect(tokens) == [repeated(tokens[: n + 1]) for n in range(len(tokens))]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=80), min_size=2, max_size=4))
def test_slots_do_not_mix(rows: list[list[int]]) -> None:
    detector = LoopDetector(len(rows))
    found: list[list[int]] = [[] for _ in rows]
    for n in range(max(map(len, rows))):
        slots = np.array([i for i, row in enumerate(rows) if n < len(row)], np.int64)
        tokens = np.array([rows[i][n] for i in slots], np.int32)
        for slot, drop in zip(slots.tolist(), detector.update(slots, tokens).tolist(), strict=True):
            found[slot].append(drop)
    assert found == [detect(row) for row in rows]


def test_a_new_caption_forgets_the_old_one() -> None:
    detector, slot = LoopDetector(1), np.zeros(1, np.int64)
    for _ in range(MIN_TOKENS):
        detector.update(slot, np.array([5], np.int32))
    detector.start(slot)
    assert [int(detector.update(slot, np.array([5], np.int32))[0]) for _ in range(MIN_TOKENS)] == [0] * MIN_TOKENS


def test_captions_lists_and_emphasis_are_no_loops() -> None:
    rng = np.random.default_rng(0)
    captions = [scenes.caption(scenes.random_scene(rng)).replace(".", " .").replace(",", " ,") for _ in range(500)]
    for text in (
        "it is very , very , very , very large",
        "one tree , one house , one dog , one cat and one bird",
        "a red car , a red car , a red car",
        "on the left , a man ; on the right , a man ; on the left , a dog ; on the right , a dog",
        *captions,
    ):
        words: dict[str, int] = {}
        assert not any(detect([words.setdefault(w, len(words)) for w in text.split()])), text
