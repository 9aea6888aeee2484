import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import share
from support.fake_runs import detokenize
from support.finished_rows import finished

from recap_fast.records import Completion, ImageOutcome, Row, Sample
from recap_fast.write import captions
from recap_fast.write.captions import clean, count_words, make_batches
from recap_fast.write.schema import SCHEMA


def written(*rows: Row) -> list[dict]:
    """The rows as they are written; that they have the schema, in one batch."""
    (batch,) = make_batches(rows, detokenize)
    assert batch.schema == SCHEMA
    batch.validate(full=True)
    return batch.to_pylist()


def looped(text: str) -> str:
    return clean(text, Completion(0, np.empty(0, np.int32), "loop", 99))


def test_a_caption_is_stripped_and_nothing_else_is_changed():
    ended = Completion(0, np.empty(0, np.int32), "stop", 9)
    assert clean(' \n A  cat ."  \t', ended) == 'A  cat ."'
    assert clean("Cut. at the lim", Completion(0, np.empty(0, np.int32), "length", 9)) == "Cut. at the lim"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat. A dog. The the", "A cat. A dog."),
        ("A cat! A dog? and and", "A cat! A dog?"),
        ('He says "no." Then then', 'He says "no."'),
        ("(A cat.) A dog and", "(A cat.)"),
        ("It is 3.5 m long and wide", "It is 3.5 m long and wide"),
        ("It is at x.com. See see", "It is at x.com."),
        ("no sentence ends here", "no sentence ends here"),
        ("一只猫。一只狗、一只", "一只猫。"),
        ("彼は「猫だ。」と言った。そして", "彼は「猫だ。」と言った。"),
        ("All of it. ", "All of it."),
        ("", ""),
    ],
)
def test_a_loop_is_cut_at_the_last_whole_sentence(text, expected):
    assert looped(text) == expected


@given(st.text(alphabet="ab.!? \"')", max_size=60))
def test_the_cut_is_a_prefix_that_ends_a_sentence_or_all_there_is(text):
    cut = looped(text)
    assert text.strip().startswith(cut)
    assert cut == text.strip() or cut.rstrip("\"')")[-1] in ".!?"


@given(st.text(max_size=60))
def test_words_are_what_white_space_separates(text):
    words, inside = 0, False
    for character in text:
        words += not inside and not character.isspace()
        inside = not character.isspace()
    assert count_words(text) == words


def test_a_row_holds_all_that_is_known_of_its_sample():
    sample = {
        "url": "http://x/1",
        "uid": "u1",
        "sha256": "ab" * 32,
        "org_caption": "my  cat\n2024",
        "metadata": '{"a": 1}',
        "warning": "the key is there twice",
        "file_name": "a/7.jpg",
        "input_version": "9:12",
        "image_sha256": "cd" * 32,
    }
    one = finished(7, " A black cat. ", **sample)
    one.duplicate_of = "a:3"
    one.warning = "org_caption cut from 310 to 128 tokens"
    (row,) = written(one)
    assert row == {
        **{name: value for name, value in sample.items() if name != "warning"},
        "re_caption": "A black cat.",
        "key": "000000007",
        "re_clip_score": None,
        "org_clip_score": None,
        "re_length": 3,
        "org_length": 3,
        "re_gpt4v_score": None,
        "org_gpt4v_score": None,
        "shard": "00000",
        "index": 7,
        "width": 640,
        "height": 480,
        "status": "ok",
        "error": None,
        "warning": "the key is there twice; org_caption cut from 310 to 128 tokens",
        "finish_reason": "stop",
        "num_tokens": 15,
        "flags": [],
        "duplicate_of": "a:3",
        "captions": None,
    }


def test_captions_stay_with_their_rows_and_those_without_say_why():
    sample = Sample(shard="s", index=0, key="k", image=b"", status="missing_image", error="no image among its files")
    rows = [finished(0, "a"), finished(1, None), finished(2, "c", reason="loop"), finished(3, "")]
    names = ["re_caption", "re_length", "num_tokens", "finish_reason", "status", "error"]
    assert [tuple(row[name] for name in names) for row in written(*rows, Row(order=4, sample=sample))] == [
        ("a", 1, 2, "stop", "ok", None),
        (None, None, None, "error", "not_an_image", "It is not an image."),
        ("c", 1, 2, "loop", "ok", None),
        ("", 0, 1, "stop", "ok", None),
        (None, None, None, "error", "missing_image", "no image among its files"),
    ]


ANY_TEXT = st.none() | st.text(st.characters(exclude_categories=[]) | st.sampled_from("\ud800\udfff"), max_size=30)
ANY_INTEGER = st.none() | st.integers() | st.sampled_from([2**31 - 1, 2**31, 2**63, -(2**31), 10**5000])
TEXTS_OF_SAMPLES = (
    *("key", "file_name", "input_version", "url", "uid", "sha256", "image_sha256"),
    *("org_caption", "metadata", "error", "warning", "shard"),
)
COMPLETIONS = st.builds(
    lambda ids, reason, num: Completion(0, np.array(ids, np.int32), reason, num),
    st.lists(st.integers(-5, 0x110005), max_size=8),
    ANY_TEXT,
    ANY_INTEGER,
)
PROMPTS = st.tuples(st.text() | st.just("\udc00"), st.sampled_from(["What?", "Wh\udc00t?", "Is it {key}?"]))
ROWS = st.builds(
    Row,
    order=st.just(0),
    sample=st.builds(
        Sample,
        index=st.integers(0, 2**63 - 1),
        image=st.just(b""),
        status=st.sampled_from(["ok", "corrupt", "odd \udc00"]),
        **dict.fromkeys(TEXTS_OF_SAMPLES, ANY_TEXT),
    ),
    outcome=st.builds(ImageOutcome, ANY_INTEGER, ANY_INTEGER, st.sampled_from(["ok", "too_large"]), ANY_TEXT),
    warning=ANY_TEXT,
    completions=st.just(()) | st.tuples(COMPLETIONS),
) | st.builds(
    Row,
    order=st.just(0),
    sample=st.builds(Sample, shard=st.just("a"), index=st.integers(0, 9), key=st.just("a"), image=st.just(b"")),
    prompts=st.tuples(PROMPTS, PROMPTS),
    completions=st.just(()) | st.tuples(COMPLETIONS, COMPLETIONS),
)


@share(2)
@given(st.lists(ROWS, max_size=5), st.integers(0, 200))
def test_whatever_is_in_a_row_it_fits_its_schema(rows, max_bytes):
    """Ids beyond Unicode make `detokenize` fail, for the whole batch."""
    batches = list(make_batches(rows, detokenize, max_bytes))
    for batch in batches:
        assert batch.schema == SCHEMA
        batch.validate(full=True)
    found = [row for batch in batches for row in batch.to_pylist()]
    assert [row["index"] for row in found] == [row.sample.index for row in rows]
    for row, given_row in zip(found, rows, strict=True):
        if row["status"] == "unwritable":
            assert not all(0 <= i < 0x110000 for c in given_row.completions for i in c.token_ids)
            continue
        for name in ("width", "height"):
            size = getattr(given_row.outcome, name)
            fits = size is not None and abs(size) < 2**31
            assert row[name] == (size if fits else None)
            assert (size is not None and not fits) == (f"{name} is left out" in (row["warning"] or ""))


def test_batches_are_as_large_as_their_bytes_allow_and_a_larger_row_has_one_of_its_own():
    sizes = [200, 200, 100, 900, 100]
    rows = [finished(i, "x" * 10, metadata="é" * (size // 2), key="") for i, size in enumerate(sizes)]
    others = len("x" * 10 + "00000" + "ok" + "stop")
    batches = list(make_batches(rows, detokenize, max_bytes=2 * (200 + others)))
    assert [batch["index"].to_pylist() for batch in batches] == [[0, 1], [2], [3], [4]]


def test_texts_are_cut_where_they_are_too_long_for_a_column_with_a_word_about_it(monkeypatch):
    monkeypatch.setattr(captions, "MAX_TEXT_BYTES", 12)
    long = finished(0, "A large old cat.", metadata="ééééééé", url="12345678\ud800", org_caption="twelve bytes")
    long.outcome = dataclasses.replace(long.outcome, error="an error of many words")
    long.warning = "a warning"
    (row,) = written(long)
    assert row["re_caption"] == "A large old "
    assert (row["metadata"], row["url"]) == ("éééééé", "12345678\\ud8")
    assert (row["error"], row["org_caption"]) == ("an error of ", "twelve bytes")
    assert row["warning"] == (
        "url has 14 bytes and is cut to 12; re_caption has 16 bytes and is cut to 12; "
        "error has 22 bytes and is cut to 12; metadata has 14 bytes and is cut to 12; a warning"
    )


def test_a_row_that_cannot_be_written_says_why_and_the_others_are_as_they_were(caplog):
    odd = finished(1, "b", metadata=5, url="u", input_version="1:2")
    bad_ids = finished(2, "c")
    bad_ids.completions = (dataclasses.replace(bad_ids.completion, token_ids=np.array([-1], np.int32)),)
    rows = written(finished(0, "a"), odd, bad_ids, finished(3, "d"))
    assert [row["re_caption"] for row in rows] == ["a", None, None, "d"]
    assert {name: value for name, value in rows[1].items() if value is not None} == {
        "key": "000000001",
        "shard": "00000",
        "index": 1,
        "input_version": "1:2",
        "status": "unwritable",
        "error": "TypeError: metadata is a int, not text",
        "finish_reason": "error",
        "flags": [],
    }
    assert rows[2]["error"] == "ValueError: chr() arg not in range(0x110000)"
    assert "shard 00000: sample 1 cannot be written" in caplog.text


@pytest.mark.parametrize("index", [2**63, None])
def test_a_row_without_a_place_is_an_error(index):
    nowhere = Row(order=0, sample=Sample(shard="s", index=index, key="k", image=b""))
    with pytest.raises(ValueError, match="no index, or one that does not fit into 64 bits"):
        list(make_batches([nowhere], detokenize))


def test_warnings_of_the_sample_the_image_and_the_prompt_are_all_in_the_row():
    sample = Sample(shard="a", index=0, key="k", image=b"", warning="the key is there twice")
    outcome = ImageOutcome(9000, 8000, warning="the image was decoded at 1/2 scale")
    row = Row(order=0, sample=sample, outcome=outcome, warning="a field was cut")
    assert written(row)[0]["warning"] == "the key is there twice; the image was decoded at 1/2 scale; a field was cut"
