"""Two captions in, their words with marks out: which are in one alone."""

from difflib import SequenceMatcher

MAX_WORDS = 400
"""Of each caption; the words behind them are not shown. The comparison takes time of the square of them."""
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
