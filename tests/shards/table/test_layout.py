import json
import uuid

import duckdb
import pyarrow as pa
import pytest
from support.shard_files import read_samples, write_table, write_tar

from recap_fast.records import Selection, Shard

JPEG = b"\xff\xd8\xff" + b"a" * 30


def read(tmp_path, columns, **selection):
    path = write_table(tmp_path / "p.parquet", {"image": [JPEG], **columns})
    ((sample,), _) = read_samples(Shard("s", str(path), "parquet"), selection=Selection(**selection))
    return sample


@pytest.mark.parametrize(
    ("values", "uid"),
    [
        (pa.array([12345678901]), "12345678901"),
        (pa.array([2**64 - 1], pa.uint64()), str(2**64 - 1)),
        (pa.array([uuid.UUID(int=1).bytes], pa.uuid()), str(uuid.UUID(int=1))),
        (pa.array([b"\x00\xff" * 8], pa.binary(16)), "00ff" * 8),
        (pa.array([b"\x00\xff" * 8]), "00ff" * 8),
        (pa.array([b"u1"]), "u1"),
        (pa.array([b"caf\xe9"]), "caf\\xe9"),
        (pa.array(["u1"], pa.large_string()), "u1"),
        (pa.array(["u1"], pa.string_view()), "u1"),
        (pa.array(["u1"]).dictionary_encode(), "u1"),
        (pa.array([7.0]), "7"),
        (pa.array([None], pa.null()), None),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else str(value),
)
@pytest.mark.parametrize("name", ["uid", "UID"])
def test_a_field_of_any_type_that_is_text_or_a_number(tmp_path, values, uid, name):
    sample = read(tmp_path, {"text": [b"a"], name: values})
    assert (sample.uid, sample.org_caption, sample.metadata) == (uid, "a", None)


def test_a_field_of_a_type_that_is_neither_is_only_metadata(tmp_path):
    sample = read(tmp_path, {"url": [["a", "b"]]})
    assert (sample.url, json.loads(sample.metadata)) == (None, {"url": ["a", "b"]})
    assert "url is an array" in sample.warning


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.string(), pa.large_string()], ids=str
)
def test_text_with_and_without_its_mark(tmp_path, kind):
    values = {"url": "http://x", "TEXT": "é", "uid": "u", "__key__": "k", "title": "t", "json": '{"a": 1}'}
    columns = {name: pa.array([text.encode()]).cast(pa.binary()).cast(kind) for name, text in values.items()}
    sample = read(tmp_path, columns)
    assert (sample.url, sample.org_caption, sample.uid, sample.key) == ("http://x", "é", "u", "k")
    assert json.loads(sample.metadata) == {"a": 1, "title": "t"}
    assert sample.warning is None


def test_text_that_is_latin1_is_escaped_with_a_warning(tmp_path):
    sample = read(tmp_path, {"caption": [b"caf\xe9"], "title": [b"na\xefve"]})
    assert (sample.org_caption, json.loads(sample.metadata)) == ("caf\\xe9", {"title": "na\\xefve"})
    assert "the caption is not UTF-8" in sample.warning
    assert "the column 'title' is not UTF-8" in sample.warning


@pytest.mark.parametrize("ascii_first", range(3))
def test_long_text_without_its_mark(tmp_path, ascii_first):
    text = "a" * ascii_first + "漢" * 3000
    assert read(tmp_path, {"caption": [text.encode()]}).org_caption == text


@pytest.mark.parametrize(("values", "key"), [([7], "7"), (["k"], "k"), ([b"k"], "k"), ([None], "000000000")])
def test_keys(tmp_path, values, key):
    assert read(tmp_path, {"key": values}).key == key


@pytest.mark.parametrize(
    "fields",
    [
        {"uid": "u1", "url": "http://x", "caption": "c"},
        {"UID": 12345678901, "URL": "http://x", "TEXT": "c"},
        {"url": "http://x", "org_caption": "o", "caption": "c", "extra": {"a": [1, None]}},
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_a_column_json_is_what_a_tar_has_as_json(tmp_path, fields, as_text):
    columns = {"__key__": ["a"], "__url__": ["s.tar"], "cls": [3], "json": [json.dumps(fields) if as_text else fields]}
    sample = read(tmp_path, columns)
    tar = write_tar(tmp_path / "t.tar", [("a.jpg", JPEG), ("a.json", json.dumps(fields).encode())])
    ((expected,), _) = read_samples(Shard("t", str(tar), "tar"))
    for name in ("key", "uid", "url", "org_caption", "sha256"):
        assert getattr(sample, name) == getattr(expected, name)
    assert json.loads(sample.metadata) == {**fields, "__url__": "s.tar", "cls": 3}


def test_a_caption_column_that_is_no_text(tmp_path):
    assert read(tmp_path, {"n": [7]}, caption_column="n").org_caption == "7"
    assert read(tmp_path, {"n": [["a", "b"]]}, caption_column="n").org_caption == '["a", "b"]'


def test_types_that_duckdb_writes(tmp_path):
    path = tmp_path / "p.parquet"
    duckdb.sql(f"""
        copy (select '\\xFF\\xD8\\xFF{"a" * 30}'::blob as image, interval '1 month 2 days 3 seconds' as i,
        '00000000-0000-0000-0000-000000000007'::uuid as u, {{'a': 1, 'b': map {{'k': [1.5]}}}} as s, '101'::bit as b,
        date '2020-01-02' as d) to '{path}'
    """)
    ((sample,), _) = read_samples(Shard("s", str(path), "parquet"))
    assert json.loads(sample.metadata) == {
        "i": "P1M2DT3.0S",
        "u": "00000000-0000-0000-0000-000000000007",
        "s": {"a": 1, "b": [["k", ["1.5"]]]},
        "b": "101",
        "d": "2020-01-02",
    }
