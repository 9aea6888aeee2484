import datetime
import decimal
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.shards.side_text import plain, read_json, read_text, text_or_bytes, write_json

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff\0")))
def test_text_in_any_unicode(encoding, text):
    warnings = []
    assert read_text(text.encode(encoding), "it", warnings) == text
    assert warnings == []


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@given(text=st.text(st.characters(max_codepoint=0xFF, categories=["L", "P", "N", "Zs"]), min_size=2))
def test_text_of_europe_in_utf16_without_a_mark(encoding, text):
    assert read_text(text.encode(encoding), "it", warnings := []) == text
    assert warnings == []
    assert text_or_bytes(text.encode(encoding)) is None, "it may be a UUID as well"


@pytest.mark.parametrize("content", [b"a\0", b"a\0b", b"\0\0\0\0", b"a\0\1\0", b"a\0bc", b"\0a\0\0", b"A\0\0\0"])
def test_zeros_alone_make_no_utf16(content):
    assert read_text(content, "it", []) == content.decode()
    assert text_or_bytes(content) is None


@pytest.mark.parametrize("encoding", [*ENCODINGS, "utf-16-le", "utf-32-be"])
def test_json_in_any_unicode(encoding):
    text = '{"name":  "caf\u00e9 \u6f22"}'
    read = read_json(text.encode(encoding), "it", warnings := [])
    assert (read.value, read.text, warnings) == ({"name": "caf\u00e9 \u6f22"}, text, [])


@given(st.binary())
def test_bytes_never_fail(content):
    for read in (read_text, read_json):
        read(content, "it", [])
    text_or_bytes(content)


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00", b"\xff\xfe\x00\xd8", b'{"a": "\\\xe9"}', b"\x00\x00\x00\x00"])
def test_what_is_in_no_encoding_is_read_as_far_as_it_goes(content):
    assert read_json(content, "the json", warnings := []) is None
    assert warnings


@pytest.mark.parametrize("depth", [*range(880, 1010, 3)])
def test_any_depth(depth):
    for inner in (b'"\\ud800"', b"NaN", b"1"):
        read = read_json(b"[" * depth + inner + b"]" * depth, "the json", warnings := [])
        assert (read is None) == bool(warnings)


def test_bytes_of_unknown_kind_are_text_only_where_they_are():
    assert [text_or_bytes(c) for c in (b"a\tb\n", b"\xff\xfea\x00", b"caf\xe9", b"a\0b", b"")] == [
        "a\tb\n",
        "a",
        None,
        None,
        "",
    ]


def test_values_of_any_type_become_json():
    values = {
        1: [b"bytes", 2],
        "when": datetime.datetime(2020, 1, 2, 3),
        "id": uuid.UUID(int=1),
        "price": decimal.Decimal("1.50"),
        "none": float("inf"),
        "large": 1 << 20_000,
        "gone": memoryview(b"x"),
    }
    assert json.loads(write_json(values)) == {
        "1": [None, 2],
        "when": "2020-01-02T03:00:00",
        "id": "00000000-0000-0000-0000-000000000001",
        "price": "1.50",
        "none": None,
        "large": hex(1 << 20_000),
    }
    assert plain(True) is True
