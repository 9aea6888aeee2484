"""Histograms have the shares that a count gives, and are SVG that reads on light and dark, the same each time."""

import re
from collections import Counter
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.report.charts import MAX_BARS, NEW, ORIGINAL, Series, bins, histogram

COUNTS = st.dictionaries(st.integers(0, 500), st.integers(1, 9), min_size=1, max_size=30)


@given(COUNTS, COUNTS, st.sampled_from([1, 0.01]))
def test_bars_have_all_values(one, other, step):
    series = [{round(value * step, 2): count for value, count in counts.items()} for counts in (one, other)]
    found = bins(series, step)
    assert 1 <= len(found.shares[0]) == len(found.shares[1]) <= MAX_BARS
    for counts, shares in zip(series, found.shares, strict=True):
        assert sum(shares) == pytest.approx(1)
        bars = Counter()
        for value, count in counts.items():
            bars[min(round((value - found.start) / step) // round(found.width / step), len(shares) - 1)] += count
        assert shares == pytest.approx([bars[n] / sum(counts.values()) for n in range(len(shares))])


def test_one_long_caption_does_not_flatten_the_others():
    found = bins([dict.fromkeys(range(10), 100) | {10_000: 1}])
    assert (found.start, found.width, len(found.shares[0])) == (0, 1, 10)
    assert found.shares[0][-1] == 101 / 1001


def test_the_svg_says_what_it_shows():
    series = [Series("new", {1: 2, 3: 1}, NEW), Series("original", {2: 1}, ORIGINAL), Series("none", {}, NEW)]
    svg = histogram("lengths", "Words <of> a caption", "Mean & more", "words", series)
    root = ElementTree.fromstring(svg)
    about = [root.find(name) for name in ("title", "desc")]
    assert [each.text for each in about] == ["Words <of> a caption", "Mean & more"]
    assert root.get("aria-labelledby").split() == [each.get("id") for each in about]
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert len({*ids}) == len(ids)
    assert all(name.startswith("lengths-") for name in ids)
    assert {*re.findall(r"#[0-9a-f]{6}\b", svg)} == {NEW, ORIGINAL}
    assert "currentColor" in svg
    assert 'href="http' not in svg
    assert svg == histogram("lengths", "Words <of> a caption", "Mean & more", "words", series)


def test_nothing_to_draw():
    assert histogram("x", "x", "x", "x", [Series("new", {}, NEW)]) == ""
