import contextlib
import json

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.shard_files import read_samples

from recap_fast.records import Shard
from recap_fast.shards.table.variant import read_variant

VALUES = {
    "{'a': 1, 'b': 'x', 'c': null}": {"a": 1, "b": "x", "c": None},
    "[1::variant, (-70000)::variant, {'k': 1.5::double}::variant, 'é'::variant]": [1, -70000, {"k": 1.5}, "é"],
    "{'a': [{'b': null}, {'b': repeat('y', 100)}]}": {"a": [{"b": None}, {"b": "y" * 100}]},
    "null": None,
    "true": True,
    "9223372036854775807": 2**63 - 1,
    "1.25::float": 1.25,
    "'nan'::double": None,
    "(-12.34)::decimal(10, 2)": "-12.34",
    "(-12.34)::decimal(38, 2)": "-12.34",
    "date '2020-01-02'": "2020-01-02",
    "time '12:34:56'": "12:34:56",
    "timestamp '2020-01-02 03:04:05.5'": "2020-01-02T03:04:05.500000",
    "timestamptz '2020-01-02 03:04:05+00'": "2020-01-02T03:04:05+00:00",
    "'00000000-0000-0000-0000-000000000007'::uuid": "00000000-0000-0000-0000-000000000007",
    "'\\x00\\x01'::blob": "0001",
}


def read(path, values):
    rows = ", ".join(f"({value}::variant)" for value in values)
    duckdb.sql(f"""
        copy (select '\\xFF\\xD8\\xFF{"a" * 30}'::blob as image, v from (values {rows}) t(v)) to '{path}'
    """)
    samples, _ = read_samples(Shard("s", str(path), "parquet"))
    return [json.loads(sample.metadata) for sample in samples]


@pytest.mark.parametrize("value", VALUES)
def test_variants_whose_type_is_that_of_the_column(tmp_path, value):
    """Here duckdb makes what it can columns of their own."""
    assert read(tmp_path / "p.parquet", [value]) == [{"v": VALUES[value]}]


def test_variants_of_many_types_in_one_column(tmp_path):
    assert read(tmp_path / "p.parquet", VALUES) == [{"v": value} for value in VALUES.values()]


NAMES = b"\x01\x02\x00\x01\x02ab"
# {"a": [1, null, "xy"], "b": 2.0 as float}
OBJECT = b"\x02\x02\x00\x01\x00\x0c\x11" + b"\x03\x03\x00\x02\x03\x06\x0c\x01\x00\x09xy" + b"\x38\x00\x00\x00\x40"


def test_a_value_made_by_hand():
    assert read_variant({"metadata": NAMES, "value": OBJECT}) == {"a": [1, None, "xy"], "b": 2.0}


def test_parts_that_lie_in_one_another_end():
    value = b"\x00"
    for _ in range(20):  # arrays of 200 elements, each of them the same one
        value = bytes([0x03, 200]) + b"\x00" * 201 + value
    with pytest.raises(ValueError, match="is cut off"):
        read_variant({"metadata": NAMES, "value": value})


@given(st.data())
def test_whatever_the_bytes_are(data):
    metadata, value = (bytearray(content) for content in (NAMES, OBJECT))
    for _ in range(data.draw(st.integers(1, 4))):
        content = data.draw(st.sampled_from([metadata, value]))
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        json.dumps(read_variant({"metadata": bytes(metadata), "value": bytes(value)}), default=str)


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=40))
def test_bytes_that_were_never_a_variant(metadata, value):
    with contextlib.suppress(ValueError):
        read_variant({"metadata": metadata, "value": value})
