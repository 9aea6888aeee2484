"""The JPEG walker against its slow twin, and what it keeps and drops."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import built, jpeg_walk  # noqa: F401 - before the modules that it may replace
from support.pictures import encode, natural, with_orientation

from recap_fast.arrow_core import core

PICTURE = natural(40, 30)
EXIF = with_orientation(6)
EXIF[0x010E] = "text " * 20
KINDS = {
    "plain": encode(PICTURE, "JPEG"),
    "progressive": encode(PICTURE, "JPEG", progressive=True),
    "grey": encode(PICTURE.convert("L"), "JPEG"),
    "rgb": encode(PICTURE, "JPEG", keep_rgb=True),
    "restarts": encode(PICTURE, "JPEG", restart_marker_rows=1),
    "metadata": encode(PICTURE, "JPEG", exif=EXIF, comment=b"words", icc_profile=b"profile" * 99, xmp=b"<x/>"),
}
OTHERS = {
    "cmyk": encode(PICTURE.convert("CMYK"), "JPEG"),
    "cut": KINDS["plain"][:-2],
    "cut in a segment": KINDS["plain"][:100],
    "no jpeg": b"\x89PNG",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_jpegs_are_well_formed_and_their_pixels_stay(kind):
    cleaned, orientation, num_scans, well_formed = core.walk_jpeg(KINDS[kind])
    assert well_formed
    assert orientation == (6 if kind == "metadata" else 1)
    assert num_scans == (10 if kind == "progressive" else 1)
    before, after = (Image.open(io.BytesIO(data)) for data in (KINDS[kind], cleaned))
    np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
    assert before.mode == after.mode
    assert core.walk_jpeg(cleaned) == (cleaned, orientation, num_scans, True)


@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_not(kind):
    assert core.walk_jpeg(OTHERS[kind])[3] is False


def test_metadata_and_what_follows_the_end_are_left_out():
    cleaned, *_ = core.walk_jpeg(KINDS["metadata"] + b"more")
    assert not [word for word in (b"words", b"profile", b"<x/>", b"text ", b"more") if word in cleaned]
    assert Image.open(io.BytesIO(cleaned)).getexif() == with_orientation(6)


def many_tags(count):
    """EXIF data that declare so many tags and have two."""
    entry = b"\x01\x0e\x00\x02\x00\x00\x00\xc9\x00\x00\x00\x01" + b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    return b"Exif\0\0MM\0*\0\0\0\x08" + count.to_bytes(2, "big") + entry


@pytest.mark.parametrize("count", [2, 3, 0x7F02, 0xFFFF])
def test_declared_tags_that_are_not_there_reach_no_decoder(count):
    cleaned, orientation, _, well_formed = core.walk_jpeg(encode(PICTURE, "JPEG", exif=many_tags(count)))
    assert (orientation, well_formed) == (6, True)
    assert len(cleaned) < len(KINDS["plain"]) + 40


@given(st.sampled_from([*KINDS, *OTHERS]), st.data())
def test_the_walk_is_that_of_its_twin(kind, data):
    damaged = bytearray({**KINDS, **OTHERS}[kind])
    for _ in range(data.draw(st.integers(0, 3)) if damaged else 0):
        at = data.draw(st.integers(0, min(len(damaged) - 1, 700)))
        size = data.draw(st.integers(0, 3))
        damaged[at : at + size] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"\xff", b"\xff\xff", b"\xff\xda"])
        )
        damaged = damaged or bytearray(b"\xff")
    given_bytes = bytes(damaged)
    assert core.walk_jpeg(given_bytes) == jpeg_walk.walk_jpeg(given_bytes)


MARKERS = st.sampled_from(
    [0, 1, 0xC0, 0xC2, 0xC3, 0xC4, 0xD0, 0xD7, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xEE, 0xFE]
)
SEGMENTS = st.builds(
    lambda fill, code, length, content: (
        b"\xff" * fill + bytes([code]) + (len(content) + length).to_bytes(2, "big") + content
    ),
    st.integers(0, 3),
    MARKERS,
    st.integers(0, 4),
    st.binary(max_size=24) | st.sampled_from([many_tags(3), b"Exif\0\0", b"JFIF\0" + bytes(9), b"Adobe" + bytes(7)]),
)


@given(st.lists(SEGMENTS | st.binary(max_size=3), max_size=8))
def test_the_walk_is_that_of_its_twin_for_any_segments(segments):
    data = b"\xff\xd8" + b"".join(segments)
    assert core.walk_jpeg(data) == jpeg_walk.walk_jpeg(data)


def test_it_releases_the_gil(assert_releases_gil):
    assert_releases_gil(core.walk_jpeg, lambda: (KINDS["plain"] + bytes(1 << 20),))
