"""Words and openings are counted as plain Python counts them, whatever the texts are, also once counts are added up."""

import math
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.report import texts
from recap_fast.report.database import connect
from recap_fast.report.texts import COMMON, PUNCTUATION, Texts, Vocabulary, Word, split

TEXTS = st.lists(st.text("abBÉéß.,!“ \t\n\u00a0\u3000\u2029\x85\x1d猫犬", max_size=30), max_size=8)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with connect(tmp_path_factory.mktemp("duckdb")) as connection:
        yield connection


def add(counted, kind, captions):
    words = split(pa.array(captions, pa.string()))
    counted.add_words(kind, pc.list_flatten(words))
    if kind == "re":
        counted.add_openings(words)


def words_of(captions):
    """The slow twin."""
    words = (word.lower().strip(PUNCTUATION)[: texts.MAX_LENGTH] for caption in captions for word in caption.split())
    return Counter(word for word in words if word)


def ordered(counts, num):
    return sorted(counts.items(), key=lambda each: (-each[1], each[0].encode()))[:num]


@given(TEXTS)
def test_words_are_those_of_str_split(captions):
    assert split(pa.array(captions, pa.string())).to_pylist() == [
        words for caption in captions if (words := caption.split())
    ]


@given(TEXTS, TEXTS, st.booleans())
def test_counts_are_those_of_plain_python(database, re, org, add_up_often):
    database.execute("DROP TABLE IF EXISTS texts")
    counted = Texts(database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "PENDING", 0 if add_up_often else 10**9)
        for captions in (re[:3], re[3:]):
            add(counted, "re", captions)
        add(counted, "org", org)
    ours, theirs = words_of(re), words_of(org)
    assert counted.most_frequent("re", 5) == ordered(ours, 5)
    assert counted.most_frequent("org", 5) == ordered(theirs, 5)
    vocabulary = counted.vocabulary()
    assert vocabulary == Vocabulary(len(ours), len(theirs), len(ours | theirs), ours.total(), theirs.total())
    assert vocabulary.share == (len(ours) / len(ours | theirs) if ours | theirs else None)
    openings = Counter(" ".join(caption.split()[:3]) for caption in re if len(caption.split()) >= 3)
    assert counted.most_frequent("opening", 3) == ordered(openings, 3)
    assert counted.total("opening") == openings.total()


def test_a_long_word_counts_by_its_beginning(database):
    database.execute("DROP TABLE IF EXISTS texts")
    counted = Texts(database)
    add(counted, "re", ["x" * 10_000, "x" * 9_999])
    assert counted.most_frequent("re", 9) == [("x" * texts.MAX_LENGTH, 2)]


def log_likelihood(re, org, totals):
    """Dunning's, of a word that is there so often in texts of so many words."""
    expected = [total * (re + org) / sum(totals) for total in totals]
    return 2 * sum(n * math.log(n / e) for n, e in zip((re, org), expected, strict=True) if n)


def test_what_recaptioning_adds_is_ordered_by_log_likelihood(database):
    database.execute("DROP TABLE IF EXISTS texts")
    counted = Texts(database)
    re = {"large": 60, "red": 30, "circle": 9, "sale": 1, "the": 300, "rare": 1}
    org = {"large": 2, "red": 8, "circle": 8, "sale": 80, "the": 2}
    for kind, counts in (("re", re), ("org", org)):
        add(counted, kind, [" ".join(word for word, num in counts.items() for _ in range(num))])
    totals = sum(re.values()), sum(org.values())
    more = [w for w in re if w not in COMMON and re[w] / totals[0] >= 2 * org.get(w, 0) / totals[1]]
    wanted = sorted(more, key=lambda word: -log_likelihood(re[word], org.get(word, 0), totals))
    assert counted.added(counted.vocabulary(), 9) == [Word(word, re[word], org.get(word, 0)) for word in wanted]
    assert "large" in wanted
    assert not {"the", "sale", "circle"}.intersection(wanted)


def test_without_original_captions_nothing_can_be_added(database):
    database.execute("DROP TABLE IF EXISTS texts")
    counted = Texts(database)
    add(counted, "re", ["a red circle"])
    assert counted.added(counted.vocabulary(), 9) == []
    assert counted.most_frequent("re", 9, without_common=True) == [("circle", 1), ("red", 1)]
