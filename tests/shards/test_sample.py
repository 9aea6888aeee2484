import datetime
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.shards.sample import RawSample, is_image_name, to_sample

DIGEST = hashlib.sha256(b"jpeg").hexdigest()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


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
        ({"org_caption": ""}, b"txt", "txt"),
        ({"org_caption": float("nan"), "text": "alt"}, b"  \n", "alt"),
        ({"org_caption": ""}, None, ""),
        ({"alt_text": "alt", "TEXT": "text"}, None, "text"),
        ({"caption": 5}, None, "5"),
        ({"Caption": "other", "caption": "exact"}, None, "exact"),
        ({}, b"  two\r\nlines \n", "  two\r\nlines \n"),
        ({"org_caption": "CLR\\xc2\\xae"}, None, "CLR\\xc2\\xae"),
    ],
)
def test_org_caption(fields, caption, expected):
    made = sample(metadata=json.dumps(fields).encode(), caption=caption)
    assert (made.org_caption, made.warning) == (expected, None)


def test_identifiers_and_metadata_come_as_they_are():
    metadata = b'{"url": "http://x/\\u00e9",\n "uid":"ab",  "sha256": "%s", "n": 1.50}' % (b"0a" * 32)
    made = sample(metadata=metadata)
    assert (made.url, made.uid, made.sha256) == ("http://x/\u00e9", "ab", "0a" * 32)
    assert made.image_sha256 == DIGEST
    assert made.metadata == metadata.decode()
    assert made.warning is None


@pytest.mark.parametrize("value", ["NaN", "-Infinity", '"nan"', '"NaN"', '""', '" "', "null", '"None"', '"<NA>"'])
def test_what_pandas_writes_for_nothing_is_nothing(value):
    made = sample(metadata=f'{{"URL": {value}, "uid": {value}, "sha256": {value}, "x": 0.3}}'.encode())
    assert (made.url, made.uid, made.sha256, made.image_sha256, made.warning) == (None, None, DIGEST, None, None)
    assert json.loads(made.metadata, parse_constant=pytest.fail)["x"] == 0.3


@pytest.mark.parametrize(
    ("value", "uid"),
    [("12345678901", "12345678901"), ("1" * 40, "1" * 40), ("7.0", "7"), ("0.5", "0.5"), ("1e300", "1e+300")],
)
def test_numbers_as_uid(value, uid):
    assert sample(metadata=f'{{"uid": {value}}}'.encode()).uid == uid
    assert sample(fields={"UID": json.loads(value)}).uid == uid


@pytest.mark.parametrize(
    ("value", "warning"),
    [
        (True, "uid is true or false, not text"),
        ({"a": 1}, "uid is an object, not text"),
        (["a"], "uid is an array, not text"),
    ],
)
def test_what_is_no_identifier_stays_in_the_metadata(value, warning):
    by_json, by_column = sample(metadata=json.dumps({"uid": value}).encode()), sample(fields={"uid": value})
    for made in (by_json, by_column):
        assert made.uid is None
        assert json.loads(made.metadata) == {"uid": value}
        assert warning in made.warning


@pytest.mark.parametrize(
    ("given", "expected", "warning"),
    [
        (DIGEST.upper(), (DIGEST, None), None),
        ("0" * 64, ("0" * 64, DIGEST), None),
        ("deadbeef", (DIGEST, None), "sha256 is not one of 64 hex digits: it is only in the metadata"),
        (5, (DIGEST, None), "sha256 is not one of 64 hex digits: it is only in the metadata"),
    ],
)
def test_only_a_digest_takes_the_place_of_the_digest(given, expected, warning):
    made = sample(metadata=json.dumps({"sha256": given}).encode())
    assert ((made.sha256, made.image_sha256), made.warning) == (expected, warning)


def test_columns_go_before_the_json_and_bytes_are_read_as_what_they_are():
    made = sample(
        fields={"UID": b"u1", "url": float("nan"), "sha256": bytes(32)}, metadata=b'{"uid": "other", "url": "http://x"}'
    )
    assert (made.uid, made.url, made.sha256) == ("u1", "http://x", "0" * 64)
    assert sample(fields={"uid": b"\xff" * 16}).uid == "ff" * 16


def test_sha256_is_of_the_image_where_none_is_given():
    assert sample().sha256 == hashlib.sha256(b"jpeg").hexdigest()
    assert sample(image=b"", status="missing_image").sha256 is None


def test_bytes_that_are_not_utf8_cost_their_own_field_and_no_other():
    made = sample(caption=b"caf\xe9", metadata=b'{"exif": "Jos\xe9", "uid": "u0", "URL": "http://x"}')
    assert (made.org_caption, made.uid, made.url) == ("caf\\xe9", "u0", "http://x")
    assert json.loads(made.metadata)["exif"] == "Jos\\xe9"
    assert "the caption is not UTF-8 at byte 3" in made.warning
    assert "the json is not UTF-8 at byte 13" in made.warning


def test_half_a_surrogate_pair_is_escaped_with_a_warning():
    made = sample(metadata=b'{"caption": "a\\ud800b", "url": "\\udfff", "whole": "\\ud83d\\ude00"}')
    assert (made.org_caption, made.url) == ("a\\ud800b", "\\udfff")
    assert "the caption has half a surrogate pair" in made.warning
    assert json.loads(made.metadata) == {"caption": "a\\ud800b", "url": "\\udfff", "whole": "\U0001f600"}


@pytest.mark.parametrize(
    ("metadata", "kept", "warning"),
    [
        (b"{broken", {"json": "{broken"}, "the json cannot be read"),
        (b"[1, 2]", [1, 2], "the json is an array, not an object"),
        (b"null", None, "the json is null, not an object"),
        (b"5", 5, "the json is a number, not an object"),
        (b'"x"', "x", "the json is a string, not an object"),
        (b"[" * 3000, {"json": "[" * 3000}, "the json cannot be read"),
        (b'{"n": ' + b"9" * 5000 + b"}", {"n": "9" * 5000}, None),
        (b'{"n": [NaN, -Infinity], "line": "a\nb"}', {"n": [None, None], "line": "a\nb"}, None),
        (b'{"url": ["x"]}', {"url": ["x"]}, "url is an array, not text"),
        (b"", None, "the json is empty"),
        (b" \n", None, "the json is empty"),
    ],
)
def test_odd_json_is_kept(metadata, kept, warning):
    made = sample(metadata=metadata)
    assert made.status == "ok"
    assert (None if made.metadata is None else json.loads(made.metadata, parse_constant=pytest.fail)) == kept
    assert made.warning is None if warning is None else warning in made.warning


def test_all_that_came_with_the_image_is_metadata():
    made = sample(
        metadata=b'{"cls": "cat", "title": "t"}',
        record={"title": "other", "license": "CC0", "when": datetime.date(2020, 1, 2), "thumbnail": {"bytes": b"1"}},
        fields={"uid": ["odd"], "url": None},
        members={"cls": 7, "caption.txt": b"\xef\xbb\xbfa cat", "npy": b"\0\1", "score": float("nan")},
    )
    assert json.loads(made.metadata) == {
        "cls": "cat",
        "title": "t",
        "license": "CC0",
        "when": "2020-01-02",
        "thumbnail": {},
        "uid": ["odd"],
        ".cls": 7,
        "caption.txt": "a cat",
        "score": None,
    }


def test_members_nested_too_deep_are_left_out_with_a_warning():
    deep = json.loads("[" * 900 + "]" * 900)
    for _ in range(600):
        deep = [deep]
    made = sample(metadata=b'{"uid": "u"}', members={"meta.json": deep})
    assert (made.uid, made.metadata) == ("u", '{"uid": "u"}')
    assert "nested too deep" in made.warning


def test_metadata_of_more_than_a_text_may_have_is_the_json_alone(monkeypatch):
    monkeypatch.setattr("recap_fast.shards.sample.MAX_TEXT_BYTES", 50)
    made = sample(metadata=b'{"uid": "u"}', members={"a": b"x" * 20, "b": b'"' * 20})
    assert (made.uid, made.metadata) == ("u", '{"uid": "u"}')
    assert sample(metadata=b'["%s"]' % (b"\xff" * 20)).metadata is None
    assert made.warning == "what came with the image has 90 bytes as json: no more than its own json is kept"


def test_a_text_that_is_not_the_caption_is_metadata():
    made = sample(metadata=b'{"org_caption": "a"}', caption=b"b")
    assert (made.org_caption, json.loads(made.metadata)) == ("a", {"org_caption": "a", "txt": "b"})
    assert sample(metadata=b'{"org_caption":  "a"}', caption=b"a").metadata == '{"org_caption":  "a"}'


def test_a_record_fills_the_columns_as_a_json_does():
    made = sample(record={"Text": "a cat", "URL": "http://x", "uid": 7}, metadata=b'{"uid": "json"}')
    assert (made.org_caption, made.url, made.uid) == ("a cat", "http://x", "json")


@given(JSON, st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_metadata_is_always_json(value, members):
    made = sample(metadata=json.dumps(value).encode(), members=members, record={"r": value})
    assert isinstance(json.loads(made.metadata, parse_constant=pytest.fail), dict)
    made.metadata.encode()


@given(st.binary(max_size=60), st.binary(max_size=60), st.text(max_size=5))
def test_nothing_in_captions_and_metadata_fails(caption, metadata, key):
    made = sample(key=key, caption=caption, metadata=metadata)
    for text in (made.key, made.org_caption, made.metadata, made.url, made.warning):
        assert text is None or text.encode("utf-8").decode() == text
    assert made.metadata is None or json.loads(made.metadata, parse_constant=pytest.fail) is not ...


@pytest.mark.parametrize(("name", "is_image"), [("a.JPG", True), ("a.b.webp", True), ("jpg", False), ("a.txt", False)])
def test_is_image_name(name, is_image):
    assert is_image_name(name) is is_image


@pytest.mark.parametrize(
    ("caption", "metadata", "members", "org_caption"),
    [
        ("", None, {"Text": "alt", "alt_text": "later"}, "alt"),
        (None, None, {"alt_text": "alt", "text": " "}, "alt"),
        (b" \n", b'{"caption": null}', {"caption": "c"}, "c"),
        ("", b'{"caption": "of the json"}', {"caption": "c"}, "of the json"),
        ("own", None, {"org_caption": "o"}, "own"),
        ("", None, {"text": 7, "title": "t"}, ""),
    ],
)
def test_where_the_caption_is_empty_a_member_by_such_a_name_is_it(caption, metadata, members, org_caption):
    made = sample(caption=caption, metadata=metadata, members=members)
    assert made.org_caption == org_caption
    assert json.loads(made.metadata).items() >= {n: v for n, v in members.items() if n != "caption"}.items()
