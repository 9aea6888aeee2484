"""Flags: what a caption or its image is suspect of, as names in the column `flags`.

A caption with how it ended goes in, the names come out. `ROW_FLAGS` follow from a row alone and are found here,
`SHARD_FLAGS` from all rows of a shard (repeats.py). The rules are about English captions; docs/output.md lists them.
"""

import functools
import operator
import re
import string
from collections.abc import Iterable, Mapping, Sequence

from recap_fast.records import FinishReason
from recap_fast.text import SENTENCE_END

ROW_FLAGS = ("loop", "cut", "refusal", "stock_opening", "repeats_prompt", "garble", "flat_color")
SHARD_FLAGS = ("same_caption", "placeholder")
FLAGS = (*ROW_FLAGS, *SHARD_FLAGS)
"""Every flag there is, in the order in which a row lists them."""

MAX_PERIOD = 24
"""Longest phrase, in words, whose repetition is looked for, and longest piece of a word, in characters."""
MIN_CYCLES = 3
"""A phrase in a loop stands so many times in a row."""
MIN_LOOP_WORDS = 8
"""Fewest words of these together: "a very, very, very long train" is none."""
MIN_LOOP_CHARACTERS = 40
"""Fewest characters of a loop within a word, as in "hahaha" and in languages without spaces: "____" is none."""
MIN_SENTENCE = 20
"""Fewest characters of a sentence that may not stand twice."""
MIN_PROMPT_WORDS = 3
"""Fewest words of a sentence of the prompt that a caption may not repeat."""


def _matches(min_loop: int) -> dict[int, int]:
    """By number of parts of a phrase in a loop, how many parts in a row equal the one so many before them."""
    return {p: max((MIN_CYCLES - 1) * p, min_loop - p) for p in range(1, MAX_PERIOD + 1)}


_OF_WORDS, _OF_CHARACTERS = _matches(MIN_LOOP_WORDS), _matches(MIN_LOOP_CHARACTERS)
_OPEN_LIST = re.compile(r"\n\s*\d+[.)]$")
_REFUSAL = re.compile(
    r"""[*_]*(?:
        i['\u2019]?\ ?a?m\ (?:very\ |so\ |really\ |truly\ )?sorry
      | sorry\s*[,.!]
      | sorry\ but
      | i\ apologi[sz]e | my\ apologies | apologies\s*[,.!]
      | as\ an?\ (?:[\w-]+\ )?(?:ai|artificial\ intelligence|language\ model)
        (?:\s*,|\ (?:language|vision|visual|text|image|model|assistant|developed|created|trained))
      | i['\u2019]?\ ?a?m\ (?:just\ |only\ )?an?\ (?:[\w-]+\ )?(?:ai|language\ model)
      | i\ (?:can['\u2019]t|cannot|can\ not|won['\u2019]t|will\ not|regret\ that)
      | i\ (?:must|have\ to|need\ to)\ (?:respectfully\ |politely\ )?decline
      | i['\u2019]?\ ?a?m\ (?:unable|not\ able|not\ allowed|not\ comfortable|afraid\ (?:i|that))
      | i(?:['\u2019]d|\ would)\ rather\ not
      | i\ do(?:\ not|n['\u2019]t)
        \ (?:have\ (?:the\ ability|access)|feel\ comfortable|think\ i\ can|see\ (?:an|any|the)\ image)
      | it\ (?:seems|appears|looks)(?:\ that|\ like)?
        \ (?:you\ haven['\u2019]t|there\ is\ no\ image|the\ image\ (?:did|was|is)\ not)
      | (?:there\ is\ )?no\ image\ (?:is\ |was\ |has\ been\ )?(?:attached|provided|uploaded)
      | please\ (?:provide|upload|share|attach)\ (?:an?|the|your)\ (?:image|picture|photo)
      | it(?:['\u2019]s|\ is)\ not\ (?:appropriate|ethical)
      | unfortunately,?\ i )(?![\w-])""",
    re.IGNORECASE | re.VERBOSE,
)
_PICTURE = r"(?:image|picture|photo|photograph|photography)"
_SOME_PICTURE = rf"(?:[\w-]+\ |black\ and\ white\ )?{_PICTURE}"
_STOCK_OPENING = re.compile(
    rf"""(?: in\ (?:the|this)\ {_SOME_PICTURE}
      | (?:the|this)\ {_SOME_PICTURE}\ (?:provided\ )?(?:also\ |primarily\ |prominently\ |vividly\ |beautifully\ )?
        (?:shows|showcases|depicts|features|displays|presents|portrays|captures|contains|illustrates|includes|highlights
        |consists\ of|appears\ to|is\ (?:an?|of))
      | (?:this|here|it)\ is\ (?:an?|the)\ (?:[\w-]+\ )?{_SOME_PICTURE}\ (?:of|showing|with)
      | an?\ {_PICTURE}\ (?:of|showing) )\b""",
    re.IGNORECASE | re.VERBOSE,
)
_DAMAGE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd\ue000-\uf8ff]")
_LETTER = re.compile(r"[^\W\d_]")
_LATIN = (
    r"\xaa\xba\xc0-\xd6\xd8-\xf6\xf8-\u02af\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff\uab30-\uab64\ufb00-\ufb06"
    r"\uff21-\uff3a\uff41-\uff5a"
)
"""Latin letters beyond ASCII: the blocks of Unicode that have nothing else, and the full-width ones."""
_NON_LATIN = re.compile(rf"[^\x00-\x7f\W\d_{_LATIN}]")


class RowFlags:
    """Finds the flags of captions that were made with one prompt. Thread-safe."""

    def __init__(self, prompt: str = ""):
        """`prompt` is the question; what fills its fields is no part of it."""
        literals = [literal for literal, *_ in string.Formatter().parse(prompt)]
        sentences = [_normal(sentence) for literal in literals for sentence in _sentences(literal)]
        self._prompt = tuple(s for s in dict.fromkeys(sentences) if len(s.split()) >= MIN_PROMPT_WORDS)
        self._is_latin = not is_garble(prompt)

    def find(self, caption: str | None, finish_reason: FinishReason, *, is_flat: bool = False) -> list[str]:
        """The flags of a row, in the order of `FLAGS`; None is a row without a caption.

        `is_flat`: its image has one color. Such an image is a placeholder, whatever the rest of the shard.
        """
        flags = [] if caption is None else [name for name, holds in self._rules(caption, finish_reason) if holds]
        return [*flags, "flat_color", "placeholder"] if is_flat else flags

    def _rules(self, caption: str, finish_reason: FinishReason) -> Iterable[tuple[str, bool]]:
        yield "loop", finish_reason == "loop" or is_loop(caption)
        yield "cut", finish_reason == "length" and not ends_sentence(caption)
        yield "refusal", _REFUSAL.match(caption) is not None
        yield "stock_opening", _STOCK_OPENING.match(caption) is not None
        yield "repeats_prompt", self._repeats_prompt(caption)
        text = caption.rstrip("\ufffd") if finish_reason == "length" else caption  # it may end within a character
        yield "garble", is_garble(text) if self._is_latin else _DAMAGE.search(text) is not None

    def _repeats_prompt(self, caption: str) -> bool:
        if not self._prompt:
            return False
        text = _normal(caption)
        return any(sentence in text for sentence in self._prompt)


flags_of = functools.lru_cache(maxsize=256)(RowFlags)
"""The `RowFlags` of a prompt, each made once."""


def is_loop(text: str) -> bool:
    """Whether a sentence of `MIN_SENTENCE` characters stands twice, or a phrase many times in a row.

    The phrase has at most `MAX_PERIOD` words and stands `MIN_CYCLES` times, with `MIN_LOOP_WORDS` words in all; the
    numbers of a list are no words. So it is with pieces of the longest word, `MIN_LOOP_CHARACTERS` characters in all.
    """
    text = text.lower()
    sentences = [sentence for sentence in _sentences(text) if len(sentence) >= MIN_SENTENCE]
    if len(set(sentences)) < len(sentences):
        return True
    words = [word for word in text.split() if word[-1] not in ".)" or not word[:-1].isdecimal()]
    longest = max(words, key=len, default="")
    if len(longest) >= MIN_LOOP_CHARACTERS and _has_cycles(longest, _OF_CHARACTERS):
        return True
    triples = max(0, len(words) - 2)
    if len(set(zip(words, words[1:], words[2:], strict=False))) > triples - (min(_OF_WORDS.values()) - 2):
        return False  # so many triples of words would stand twice: this settles nearly every caption
    return _has_cycles(words, _OF_WORDS)


def ends_sentence(text: str) -> bool:
    """Whether a text ends with the end of a sentence, closing quotes and brackets included, and not with the number of
    an entry of a list."""
    tail = text.rstrip()[-8:]
    return not _OPEN_LIST.search(tail) and any(match.end() == len(tail) for match in SENTENCE_END.finditer(tail))


def is_garble(text: str) -> bool:
    """Whether a text has a control, private or replacement character, or more other letters than Latin ones.

    White space is no control character here. Digits, punctuation and emoji are no letters.
    """
    if _DAMAGE.search(text):
        return True
    others = 0 if text.isascii() else len(_NON_LATIN.findall(text))
    return others > 0 and 2 * others > len(_LETTER.findall(text))


def _has_cycles(parts: Sequence[str], matches: Mapping[int, int]) -> bool:
    """Whether as many parts in a row equal those before them as a phrase in a loop has."""
    return any(b"\1" * num in bytes(map(operator.eq, parts, parts[period:])) for period, num in matches.items())


def _sentences(text: str) -> list[str]:
    """What stands between the ends of sentences, stripped."""
    return [sentence.strip() for sentence in SENTENCE_END.split(text)]


def _normal(text: str) -> str:
    """A text in lower case with single spaces."""
    return " ".join(text.lower().split())
