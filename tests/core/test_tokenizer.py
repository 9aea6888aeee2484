"""The core's tokenizer against the `tokenizers` library and against tests/reference.py, on any Unicode text."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from support import reference
from support.guard import guarded
from tokenizers import Tokenizer

from recap_fast.arrow_core import core

BYTES = [bytes([byte]) for byte in range(256)]
FRAGMENTS = (
    *("'s", "'T", "'re", "'VE", "'m", "'Ll", "'d", "'\u017f", "'\ufb06", "'r", "'", "\u2019s"),
    *(" ", "  ", "   ", "\n", "\r\n", "\r", "\t", "\v", "\x1c", "\x85", "\xa0", "\u180e", "\u200b", "\u2028", "\u3000"),
    *("1", "23", "456", "7890", "٣٤", "½", "Ⅷ", "①", "𝟘𝟙"),
    *("a", "The", "circle", " red", "Größe", "ὕδωρ", "日本", "한국", "\u0301", "e\u0301", "नमस्ते", "\U00010d4a"),
    *("👩‍👩‍👧", "🇫🇷", "!", "?!...", "---", "_", "\x00", "\ufffd", "\uffff", "\U0010ffff"),
    *("<|eot_id|>", "<image>", "<pad>", "pad", " unreachable", "<|begin_of_text|>"),
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.characters(exclude_categories=["Cs"]))).map("".join),
    st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join),
)
make_unicode_tables = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[2] / "csrc/core/make_unicode_tables.py"))
)

Pair = tuple[Tokenizer, core.Tokenizer]


def library_encode(tokenizer: Tokenizer, text: str) -> list[int]:
    tokenizer.encode_special_tokens = True  # as text
    return tokenizer.encode(text, add_special_tokens=False).ids


def detokenize(tokenizer: core.Tokenizer, *rows: list[int]) -> list[str]:
    return tokenizer.detokenize([np.array(row, np.int32) for row in rows])


@given(text=TEXTS)
def test_encode_is_the_librarys(small: Pair, text: str):
    library, tokenizer = small
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == library_encode(library, text)


@given(text=TEXTS)
def test_encode_with_the_real_vocabulary_is_the_librarys(real: Pair, text: str):
    library, tokenizer = real
    assert tokenizer.encode(text).tolist() == library_encode(library, text)


@given(text=TEXTS)
def test_encode_with_the_real_vocabulary_is_tiktokens(real: Pair, ranks: dict[bytes, int], text: str):
    assert real[1].encode(text).tolist() == reference.encode_by_rank(text, ranks)


@given(rows=st.lists(st.lists(st.integers(0, 10**6)), max_size=4))
def test_detokenize_is_the_librarys_and_pythons(small: Pair, rows: list[list[int]]):
    library, tokenizer = small
    arguments = reference.core_arguments(library)
    rows = [[i % tokenizer.vocab_size for i in row] for row in rows]
    tokens = [*arguments["tokens"], *[b""] * (tokenizer.vocab_size - len(arguments["tokens"]))]
    texts = detokenize(tokenizer, *rows)
    assert texts == reference.detokenize(rows, tokens, arguments["special"].values())
    assert texts == [library.decode(row, skip_special_tokens=True) for row in rows]


@given(row=st.lists(st.integers(0, 128_000 - 1)))
def test_detokenize_with_the_real_vocabulary_is_the_librarys(real: Pair, row: list[int]):
    library, tokenizer = real
    assert detokenize(tokenizer, row) == [library.decode(row, skip_special_tokens=True)]


@given(data=st.binary())
def test_invalid_utf8_is_replaced_as_python_does(small: Pair, data: bytes):
    tokens = reference.core_arguments(small[0])["tokens"]
    row = [tokens.index(bytes([byte])) for byte in data]
    assert detokenize(small[1], row) == [data.decode("utf-8", "replace")]


@given(text=TEXTS)
def test_a_text_comes_back(small: Pair, text: str):
    assert small[1].detokenize([small[1].encode(text)]) == [text]


@pytest.fixture(scope="module")
def classes() -> dict[str, set[int]]:
    """The code points of each class in the installed `tokenizers`, by the names of csrc/core/unicode_tables.hpp."""
    return {name: set(make_unicode_tables.code_points(regex)) for name, regex in make_unicode_tables.CLASSES.items()}


def test_the_unicode_tables_are_those_of_the_installed_tokenizers(classes: dict[str, set[int]]):
    header = make_unicode_tables.TABLE.read_text(encoding="utf-8")
    for name, points in classes.items():
        assert make_unicode_tables.table(name, sorted(points)) in header, (
            f"{name} of csrc/core/unicode_tables.hpp are not those of tokenizers {tokenizers.__version__}: "
            "run csrc/core/make_unicode_tables.py"
        )


def test_code_points_are_of_their_class(classes: dict[str, set[int]]):
    """At both ends of every range of a table, where a search goes wrong, and some between.

    The merges begin with x, 1 and !, so each of these joins a character after it where the two are one word.
    """
    tokens = [*BYTES, *(first + byte for first in (b"x", b"1", b"!") for byte in BYTES)]
    merges = [(token[0], token[1], i) for i, token in enumerate(tokens) if i > 255]
    tokenizer = core.Tokenizer(tokens, merges, {}, False)
    edges = {p for points in classes.values() for p in points if not {p - 1, p + 1} <= points}
    around = {p + step for p in edges for step in (-1, 0, 1)} | set(range(0, sys.maxunicode, 97))
    letters, numbers, spaces = classes.values()
    for point in sorted(p for p in around if 0 <= p <= sys.maxunicode and not 0xD800 <= p <= 0xDFFF):
        after_mark = not (point in numbers or point in spaces) or chr(point) in "\r\n"
        joins = {"x": point in letters, "1": point in numbers, "!": after_mark}
        for first, same_word in joins.items():
            text = first + chr(point)
            assert len(tokenizer.encode(text)) == len(text.encode()) - same_word, (first, hex(point))


def test_special_token_look_alikes_stay_text(small: Pair):
    library, tokenizer = small
    eot, longer = library.token_to_id("<|eot_id|>"), library.token_to_id("<|eot_id|>x")
    assert eot not in tokenizer.encode("a<|eot_id|>b")
    assert detokenize(tokenizer, [eot, *tokenizer.encode("<|eot_id|>"), longer]) == ["<|eot_id|>"]


def test_words_are_printed_and_never_read(small: Pair):
    arguments = reference.core_arguments(small[0])
    tokenizer = core.Tokenizer(
        **arguments, words={arguments["special"]["pad"]: b"pad", arguments["special"]["<pad>"]: b"\xff"}
    )
    ids = [arguments["special"][name] for name in ("pad", "<pad>", "<image>")]
    assert detokenize(tokenizer, [*ids, *tokenizer.encode("pad")]) == ["pad\ufffdpad"]
    assert tokenizer.encode("pad").tolist() == small[1].encode("pad").tolist()


def test_the_vocabulary_is_as_large_as_the_librarys(small: Pair):
    library, tokenizer = small
    assert tokenizer.vocab_size == library.get_vocab_size()


@pytest.mark.parametrize("text", ["a", " ", "\n", "!", "ab"])
def test_long_runs_take_no_quadratic_time(small: Pair, text: str):
    """Half a million characters take a tenth of a second in n log n steps, and four minutes in n * n."""
    library, tokenizer = small
    run = text * (500_000 // len(text)) + "x"
    assert guarded(lambda: tokenizer.encode(run)).tolist() == library_encode(library, run)


def test_lone_surrogates_are_refused(small: Pair):
    with pytest.raises(ValueError, match="surrogates not allowed"):
        small[1].encode("a\ud800b")


@pytest.mark.parametrize("index", [-1, 2**31 - 1])
def test_detokenize_names_an_id_out_of_range(small: Pair, index: int):
    with pytest.raises(ValueError, match=f"row 1 has the token id {index}; the vocabulary has "):
        detokenize(small[1], [1, 2], [3, index])


@pytest.mark.parametrize(
    ("tokens", "merges", "special", "message"),
    [
        (BYTES[:255], [], {}, "no token for the single byte 255"),
        ([*BYTES, b"a"], [], {}, "tokens 97 and 256 have the same bytes"),
        (BYTES, [(97, 98, 256)], {}, "merge 0 names token 256 of 256"),
        (BYTES, [(-1, 98, 97)], {}, "merge 0 names token -1 of 256"),
        ([*BYTES, b"ab"], [(97, 98, 256), (97, 99, 256)], {}, "merge 1: token 256 is not the bytes of 97 and 99"),
        (BYTES, [], {"": 256}, "special token 256 is empty"),
        (BYTES, [], {"<pad>": -1}, "special token <pad> has the id -1"),
        (BYTES, [], {"<pad>": 2**31 - 1}, "special token <pad> has the id 2147483647"),
    ],
)
def test_a_vocabulary_that_is_no_byte_level_bpe_is_refused(
    tokens: list[bytes], merges: list[tuple[int, int, int]], special: dict[str, int], message: str
):
    with pytest.raises(ValueError, match=message):
        core.Tokenizer(tokens, merges, special, False)


def test_the_gil_is_released(small: Pair, assert_releases_gil):
    library, tokenizer = small
    text = "the quick brown fox's 12 circles " * 3000
    special = np.full(1_000_000, library.token_to_id("<pad>"), np.int32)
    assert_releases_gil(lambda: tokenizer.encode(text))
    assert_releases_gil(lambda: tokenizer.detokenize([special]))
