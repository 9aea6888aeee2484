"""Marks the words of two captions that only one of them has."""

from difflib import SequenceMatcher

MAX_WORDS = 400
"""Words of each caption that are shown. The comparison takes time in the square of them."""
Marked = list[tuple[str, bool]]
"""Stretches of words, and whether the other caption lacks them."""


def differences(this: str, other: str) -> tuple[Marked, Marked]:
    """The words of both captions, with white space between them as single spaces."""
    words = this.split()[:MAX_WORDS], other.split()[:MAX_WORDS]
    marked: tuple[Marked, Marked] = [], []
    for tag, *bounds in SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        for side, first, last in ((0, *bounds[:2]), (1, *bounds[2:])):
            if first < last:
                marked[side].append((" ".join(words[side][first:last]), tag != "equal"))
    return marked
