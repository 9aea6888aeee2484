import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_runs import detokenize
from support.finished_rows import finished

from recap_fast.records import Completion, Row, Sample
from recap_fast.write.captions import clean, count_words, make_batch
from recap_fast.write.schema import SCHEMA


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
    one.warning = "org_caption cut from 310 to 128 tokens"
    (row,) = make_batch([one], detokenize).to_pylist()
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
    }


def test_captions_stay_with_their_rows_and_those_without_say_why():
    sample = Sample(shard="s", index=0, key="k", image=b"", status="missing_image", error="no image among its files")
    rows = [finished(0, "a"), finished(1, None), finished(2, "c", reason="loop"), finished(3, "")]
    batch = make_batch([*rows, Row(order=4, sample=sample)], detokenize)
    assert batch.schema == SCHEMA
    names = ["re_caption", "re_length", "num_tokens", "finish_reason", "status", "error"]
    assert [tuple(row[name] for name in names) for row in batch.to_pylist()] == [
        ("a", 1, 2, "stop", "ok", None),
        (None, None, None, "error", "not_an_image", "It is not an image."),
        ("c", 1, 2, "loop", "ok", None),
        ("", 0, 1, "stop", "ok", None),
        (None, None, None, "error", "missing_image", "no image among its files"),
    ]
