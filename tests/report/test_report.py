"""The whole page: what it says of outputs of every kind, and that it is the same each time."""

import json
import re
import sys
from html import unescape

import pytest
from support.captioned import row, write
from support.report_pages import page_of

from recap_fast.errors import ConfigError
from recap_fast.joined import JoinedOutput
from recap_fast.report import contents
from recap_fast.report.report import make_report
from recap_fast.write.flags import FLAGS


def test_a_row_is_shown_with_all_that_is_known_of_it(tmp_path):
    given = {"url": "javascript:alert(1)", "uid": "a uid", "flags": ["refusal"], "finish_reason": "length"}
    output = write(
        tmp_path, {"00000": [row(0, "A red cat.", "cat & dog", re_clip_score=0.31254, **given)]}, images=True
    )
    page, made = page_of(output)
    for text in (
        *(
            "1 new caption beside the original ones",
            "1 image in 1 shard",
            "captioned by tiny",
            "A red cat.",
            "cat & dog",
        ),
        *(
            "What is this?",
            "6 tokens, finish reason length, CLIP score 0.31",
            "00000:0",
            "000000000",
            "javascript:alert(1)",
        ),
        *(
            "a uid",
            "refusal",
            "Flag: refusal",
            "Cut at the limit of tokens",
            "Lowest CLIP score",
            "Every image has a caption",
        ),
        *("NVIDIA H100", "1.00 GPU-hours", "images captioned, 2.0 images/s", "0123456789ab…"),
    ):
        assert text in page.text, text
    images = [attrs for tag, attrs in page.elements if tag == "img"]
    assert all(each["src"].startswith("data:image/jpeg;base64,") and each["alt"] for each in images)
    assert len(images) == 6  # random, longest, shortest, cut, flag, score
    assert not made.problems


def test_the_page_runs_nothing_and_loads_nothing(tmp_path):
    page, made = page_of(write(tmp_path, {"00000": [row(n) for n in range(3)]}, images=True))
    assert not {"script", "iframe", "object", "embed", "base", "form"}.intersection(tag for tag, _ in page.elements)
    addresses = [
        attrs[name] for _, attrs in page.elements for name in ("src", "href", "srcset", "action") if name in attrs
    ]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len({*ids}) == len(ids)
    assert {address[1:] for address in addresses if address[0] == "#"} <= {*ids}
    assert "url(http" not in made.html


def test_the_page_is_the_same_each_time(tmp_path):
    output = write(tmp_path, {"00000": [row(n, f"Caption {n} is it.") for n in range(30)]}, images=True)
    assert page_of(output)[1].html == page_of(output)[1].html != page_of(output, seed=1)[1].html


def test_num_is_the_number_of_images_of_a_section(tmp_path):
    output = write(tmp_path, {"00000": [row(n) for n in range(9)]}, images=True)
    page, _ = page_of(output, num=2)
    assert sum(tag == "img" for tag, _ in page.elements) == 6
    assert "2 of 9 captioned images" in page.text


@pytest.mark.parametrize(
    ("shards", "wanted"),
    [
        ({}, ["0 new captions", "There are no rows yet"]),
        ({"00000": []}, ["0 images in 1 shard", "There are no rows yet"]),
        (
            {"00000": [row(0, None, None)]},
            ["1 image has no caption", "The data is damaged. (1)", "No caption: corrupt"],
        ),
        ({"00000": [row(0, "A cat.", None)]}, ["1 new caption", "New captions have 2.0 words"]),
        ({"00000": [row(0, "", "")]}, ["empty", "1 new caption"]),
        (
            {"00000": [row(0, "一只猫坐在红色的椅子上。", "猫")]},
            ["一只猫坐在红色的椅子上", "New captions have 1.0 words"],
        ),
    ],
)
def test_outputs_at_their_limits(tmp_path, shards, wanted):
    page, _ = page_of(write(tmp_path, shards))
    for text in wanted:
        assert text in page.text, page.text


def test_an_unfinished_output_says_so_and_counts_what_is_there(tmp_path):
    shards = {"00000": [row(0)], "00001": [row(1, "An unfinished one."), row(2)]}
    page, made = page_of(write(tmp_path, shards, unfinished=["00001"]))
    assert made.rows == 3
    assert "1 of 2 shards are finished" in page.text
    assert "An unfinished one." in page.text


def test_without_images_the_rest_is_there(tmp_path):
    page, made = page_of(write(tmp_path, {f"{n:05d}": [row(n)] for n in range(5)}))
    assert len(made.problems) == 5
    assert "Some images cannot be read" in page.text
    assert f"{tmp_path}/in/00000.tar is not there" in page.text
    assert "and 2 more" in page.text
    assert "The image cannot be read." in page.text
    assert "A cat sits here." in page.text


def test_a_page_without_secrets(tmp_path):
    output = write(tmp_path, {"00000": [row(0, url="https://user:hush@example.org/a.jpg?signature=hush")]})
    page, made = page_of(output)
    assert "https://example.org/a.jpg" in page.text
    assert "hush" not in made.html


def test_two_outputs_beside_each_other(tmp_path):
    rows = [row(0, "A red cat sits.", uid="0"), row(1, "Same words."), row(2, None), row(3, "Only here.")]
    other = [row(3, "Not the same image.", sha256="0" * 64), row(1, "Same words."), row(0, "A blue cat sits.", uid="0")]
    this = write(tmp_path / "new", {"00000": rows}, images=False)
    page, made = page_of(this, write(tmp_path / "old", {"00000": [*other, row(2, "Now failed.")]}))
    assert (made.joined.rows, made.joined.by_uid, made.joined.by_sha256) == (3, 1, 2)
    for text in (
        *("Beside old/out", "3 images in both outputs: 1 found by uid, 2 by the SHA-256", "50.0 % of 2 pairs"),
        *("Captioned in the baseline only", "Now failed.", "None: The data is damaged."),
    ):
        assert text in page.text, text
    marked = re.findall(r"<(ins|del)>([^<]*)</", made.html)
    assert {("ins", "red"), ("del", "blue")} <= {*marked}
    assert not any("Same" in unescape(text) for _, text in marked)


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    output = JoinedOutput.open(write(tmp_path, {"00000": [row(0)]}))
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ConfigError, match=r"duckdb.*pip install 'recap-fast\[report\]'"):
        make_report(output)


def test_every_flag_says_what_it_means():
    for flag in FLAGS:
        assert contents.about_section(f"flag:{flag}", 2)[1].startswith("2 rows with this flag: ")
    assert contents.about_section("flag:own", 1) == ("Flag: own", "1 row with this flag.")


def test_what_scores_were_made_with_is_said(tmp_path):
    output = write(tmp_path, {"00000": [row(0, re_gpt4v_score=4)]})
    settings = {"judge": "some/judge", "endpoint": "https://me:hush@example.org/v1", "files": {"a": "b"}}
    output.store.put(output.score_settings("rating"), json.dumps({"format": 1, "settings": settings}).encode())
    output.store.put(output.score_settings("clip"), b"damaged")
    page, made = page_of(output)
    assert "rating scores judge some/judge, endpoint https://example.org/v1" in page.text
    assert "clip scores" not in page.text
    assert "hush" not in made.html


def test_an_output_without_original_captions_says_nothing_of_them(tmp_path):
    page, _ = page_of(write(tmp_path, {"00000": [row(n, org=None) for n in range(3)]}))
    assert "common vocabulary" not in page.text
    assert "riginal" not in page.text
    assert "Mean: 4.0 words in new captions. The last bar" in page.text


def test_means_that_there_are_not_are_not_shown(tmp_path):
    page, _ = page_of(write(tmp_path, {"00000": [row(n, None) for n in range(3)]}))
    assert "words a new caption" not in page.text
    assert "Mean: 1.0 in original ones. The last bar" in page.text
