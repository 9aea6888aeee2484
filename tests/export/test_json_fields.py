import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.export.json_fields import set_fields

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_fields_come_behind_the_others_whose_bytes_stay():
    content = b'{"width": 5.120e2,\n "exif": "\\u00e9", "big": 123456789012345678901234567890}\n'
    made = set_fields(content, {"re_caption": 'A "cat".', "org_caption": None})
    assert made == content[:-2] + b', "re_caption": "A \\"cat\\".", "org_caption": null}\n'


def test_a_field_that_is_there_keeps_its_place_and_its_bytes_if_it_says_the_same():
    content = b'{"re_caption" : "old", "x": [1,{"re_caption": 2}], "org_caption":"\\u0041", "flag": 1}'
    made = set_fields(content, {"re_caption": "new", "org_caption": "A", "flag": True})
    assert made == b'{"re_caption" : "new", "x": [1,{"re_caption": 2}], "org_caption":"\\u0041", "flag": true}'


@pytest.mark.parametrize(
    ("content", "before"),
    [
        (b"{}", {}),
        (b" \n{ } ", {}),
        (b"", {}),
        (b"[1, 2]", {"json": [1, 2]}),
        (b"null", {"json": None}),
        (b"{broken", {"json": "{broken"}),
        (b'{"a": 1} {', {"json": '{"a": 1} {'}),
        (b'\xef\xbb\xbf{"a": "\xc3\xa9"}', {"a": "\u00e9"}),
        ('{"a": "\u00e9"}'.encode("utf-16"), {"a": "\u00e9"}),
        (b'{"a": "\xff"}', {"a": "\\xff"}),
        (b"[" * 100_000, {"json": "[" * 100_000}),
    ],
)
def test_whatever_the_json_is_it_is_an_object_in_the_end(content, before):
    assert json.loads(set_fields(content, {"re_caption": "A cat."})) == before | {"re_caption": "A cat."}


def test_a_number_that_is_none_is_null():
    assert set_fields(b"{}", {"score": float("nan")}) == b'{"score": null}'


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), PLAIN, max_size=4), PLAIN, st.booleans())
def test_any_object_is_what_it_was_and_the_field(value, field, is_ascii):
    content = json.dumps(value, ensure_ascii=is_ascii, indent=1 if is_ascii else None).encode()
    made = json.loads(set_fields(content, {"a": field}))
    assert made == value | {"a": field}
    assert list(made) == list(value | {"a": field})
