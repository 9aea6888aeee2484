import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.shards.sample import RawSample, is_image_name, to_sample


def sample(**parts):
    return to_sample("shard", 3, RawSample(**{"key": "k", "image": b"jpeg", **parts}))


@pytest.mark.parametrize(
    ("fields", "caption", "expected"),
    [
        ({"org_caption": "org", "caption": "alt"}, b"txt", "org"),
        ({"caption": "alt"}, b"txt", "txt"),
        ({"caption": "alt"}, None, "alt"),
        ({"caption": None}, None, None),
        ({"org_caption": None, "caption": "alt"}, None, "alt"),
        ({"org_caption": ""}, b"txt", ""),
        ({}, b"  two\r\nlines \n", "  two\r\nlines \n"),
        ({"org_caption": "CLR\\xc2\\xae"}, None, "CLR\\xc2\\xae"),
    ],
)
def test_org_caption(fields, caption, expected):
    assert sample(metadata=json.dumps(fields).encode(), caption=caption).org_caption == expected


def test_identifiers_and_metadata_come_as_they_are():
    metadata = b'{"url": "http://x/\\u00e9",\n "uid":"ab",  "sha256": "given", "nan": NaN}'
    made = sample(metadata=metadata)
    assert (made.url, made.uid, made.sha256) == ("http://x/\u00e9", "ab", "given")
    assert made.metadata == metadata.decode()
    assert made.warning is None


def test_sha256_is_of_the_image_where_none_is_given():
    assert sample().sha256 == hashlib.sha256(b"jpeg").hexdigest()
    assert sample(image=b"", status="missing_image").sha256 is None


def test_bytes_that_are_not_utf8_are_escaped_with_a_warning():
    made = sample(caption=b"caf\xe9", metadata=b'{"caption": "\xff"}')
    assert made.org_caption == "caf\\xe9"
    assert made.metadata == '{"caption": "\\xff"}'
    assert "the caption is not UTF-8 at byte 3" in made.warning
    assert "the json is not UTF-8 at byte 13" in made.warning


def test_half_a_surrogate_pair_is_escaped_with_a_warning():
    made = sample(metadata=b'{"caption": "a\\ud800b", "url": "\\udfff"}')
    assert (made.org_caption, made.url) == ("a\\ud800b", "\\udfff")
    assert "the caption has half a surrogate pair" in made.warning


@pytest.mark.parametrize(
    ("metadata", "warning"),
    [
        (b"{broken", "the json cannot be read"),
        (b"[1, 2]", "the json is a list, not an object"),
        (b"[" * 100_000, "the json cannot be read"),
        (b'{"n": ' + b"9" * 5000 + b"}", "the json cannot be read"),
        (b'{"url": ["x"]}', "url is a list, not text"),
        (b"", "the json cannot be read"),
    ],
)
def test_odd_json_is_kept_with_a_warning(metadata, warning):
    made = sample(metadata=metadata)
    assert made.status == "ok"
    assert made.metadata == metadata.decode()
    assert warning in made.warning


@given(st.binary(max_size=60), st.binary(max_size=60), st.text(max_size=5))
def test_nothing_in_captions_and_metadata_fails(caption, metadata, key):
    made = sample(key=key, caption=caption, metadata=metadata)
    for text in (made.key, made.org_caption, made.metadata, made.url, made.warning):
        assert text is None or text.encode("utf-8").decode() == text


@pytest.mark.parametrize(("name", "is_image"), [("a.JPG", True), ("a.b.webp", True), ("jpg", False), ("a.txt", False)])
def test_is_image_name(name, is_image):
    assert is_image_name(name) is is_image
