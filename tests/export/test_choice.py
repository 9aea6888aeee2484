import hashlib

import pytest

from recap_fast.export.choice import Choice, draw, sentences

ROW = {
    "shard": "00000",
    "index": 3,
    "key": "000000003",
    "re_caption": "A cat. It sleeps!",
    "org_caption": "cat.jpg",
    "status": "ok",
    "flags": ["loop"],
    "uid": None,
    "sha256": None,
}


def rows(num):
    return [ROW | {"index": index} for index in range(num)]


def test_without_options_it_is_our_caption():
    chosen = Choice().choose(ROW)
    assert (chosen.caption, chosen.recaption, chosen.skipped) == ("A cat. It sleeps!", "A cat. It sleeps!", None)


def test_a_mix_has_the_share_that_was_asked_for_and_is_the_same_each_time():
    taken = [Choice(mix_p=0.8, seed=1).choose(row).caption == "cat.jpg" for row in rows(5000)]
    # 5,000 draws of 0.8: 4 standard deviations are 113
    assert abs(sum(taken) - 4000) < 113
    assert taken == [Choice(mix_p=0.8, seed=1).choose(row).caption == "cat.jpg" for row in rows(5000)]
    assert taken != [Choice(mix_p=0.8, seed=2).choose(row).caption == "cat.jpg" for row in rows(5000)]


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_at_the_ends_nothing_is_left_to_chance(p):
    captions = {Choice(mix_p=p).choose(row).caption for row in rows(500)}
    assert captions == {"cat.jpg" if p else "A cat. It sleeps!"}


def test_what_is_missing_falls_through_to_the_other():
    for p in (0.0, 1.0):
        assert Choice(mix_p=p).choose(ROW | {"re_caption": None}).caption == "cat.jpg"
        assert Choice(mix_p=p).choose(ROW | {"org_caption": ""}).caption == "A cat. It sleeps!"
        assert Choice(mix_p=p).choose(ROW | {"org_caption": None, "re_caption": None}).caption is None
    assert Choice().choose(ROW | {"re_caption": None}).caption is None


@pytest.mark.parametrize("blank", ["", " ", "\u2028\r\n\t "])
def test_a_blank_caption_is_none(blank):
    assert Choice(mix_p=1.0).choose(ROW | {"org_caption": blank}).caption == "A cat. It sleeps!"
    for sub_caption in (None, "first", "random"):
        chosen = Choice(sub_caption=sub_caption, skip=["failed"]).choose(ROW | {"re_caption": blank})
        assert (chosen.recaption, chosen.caption, chosen.skipped) == (None, None, "failed")


def test_a_draw_is_of_the_uid_else_the_sha256_else_the_place():
    digits = hashlib.sha256(b"1 mix uid:u1").hexdigest()[:16]
    assert draw(1, "mix", ROW | {"uid": "u1"}) == (int(digits, 16) >> 11) / 2**53
    by_uid = {draw(1, "mix", ROW | {"uid": "u1", "sha256": digest}) for digest in ("a", "b")}
    by_digest = {draw(1, "mix", ROW | {"sha256": "a", "index": index}) for index in range(2)}
    assert len(by_uid) == len(by_digest) == 1
    assert draw(1, "mix", ROW) != draw(1, "mix", ROW | {"index": 4})


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A cat. It sleeps! Why?", ["A cat.", "It sleeps!", "Why?"]),
        ("It is 3.5 m tall. Yes", ["It is 3.5 m tall.", "Yes"]),
        ('He says "No." and leaves', ['He says "No.', "and leaves"]),
        ("no end", ["no end"]),
        ("...", ["..."]),
        (" ", [" "]),
        ("One.\n\nTwo.", ["One.", "Two."]),
    ],
)
def test_sentences(caption, expected):
    assert sentences(caption) == expected


def test_one_sentence_of_ours_and_never_of_the_original():
    first = Choice(sub_caption="first", mix_p=0.0).choose(ROW)
    assert first.caption == first.recaption == "A cat."
    random = {Choice(sub_caption="random").choose(row).recaption for row in rows(50)}
    assert random == {"A cat.", "It sleeps!"}
    assert Choice(sub_caption="first", mix_p=1.0).choose(ROW | {"org_caption": "a. b."}).caption == "a. b."


def test_what_it_looks_at_is_in_its_columns():
    for choice in (Choice(), Choice(mix_p=0.5), Choice(sub_caption="random"), Choice(skip=("loop", "failed"))):
        row = {name: ROW[name] for name in choice.columns}
        assert choice.choose(row)[1:] == choice.choose(ROW)[1:]


def test_flags_that_leave_a_row_out():
    assert Choice(skip=("cut", "loop")).choose(ROW).skipped == "loop"
    assert Choice(skip=("cut",)).choose(ROW).skipped is None
    assert Choice(skip=("failed",)).choose(ROW).skipped is None
    assert Choice(skip=("failed",)).choose(ROW | {"re_caption": None, "flags": []}).skipped == "failed"
