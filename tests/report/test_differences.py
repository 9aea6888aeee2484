"""The words that only one of two captions has are marked, and no word is lost."""

from hypothesis import given
from hypothesis import strategies as st

from recap_fast.report.differences import MAX_WORDS, differences

CAPTIONS = st.lists(st.sampled_from(["a", "red", "cat", "sits"]), max_size=12).map(" ".join)


@given(CAPTIONS, CAPTIONS)
def test_all_words_are_there_and_those_without_a_mark_are_in_both(this, other):
    marked = differences(this, other)
    assert tuple(" ".join(text for text, _ in side) for side in marked) == (this, other)
    same = [" ".join(text for text, only in side if not only) for side in marked]
    assert same[0] == same[1]


def test_what_differs_is_marked():
    assert differences("A red cat sits.", "A blue cat sits there.") == (
        [("A", False), ("red", True), ("cat", False), ("sits.", True)],
        [("A", False), ("blue", True), ("cat", False), ("sits there.", True)],
    )


def test_long_captions_are_cut():
    ((text, only),), _ = differences("word " * (MAX_WORDS + 9), "")
    assert only
    assert len(text.split()) == MAX_WORDS
