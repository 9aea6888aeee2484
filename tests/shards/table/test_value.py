import datetime
import json
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.shard_files import read_samples, write_table

from recap_fast.records import Shard

JPEG = b"\xff\xd8\xff"
TEXT = st.text(st.characters(exclude_categories=("Cs",), min_codepoint=32), max_size=5)
BINARY = st.one_of(TEXT.map(str.encode), st.binary(max_size=80).map(lambda content: b"\0" + content))
SCALARS = st.sampled_from(
    [
        (pa.int8(), st.integers(-128, 127)),
        (pa.uint64(), st.integers(0, 2**64 - 1)),
        (pa.float32(), st.floats(width=32)),
        (pa.float64(), st.floats()),
        (pa.float16(), st.floats(width=16).map(np.float16)),
        (pa.bool_(), st.booleans()),
        (pa.string(), TEXT),
        (pa.large_string(), TEXT),
        (pa.string_view(), TEXT),
        (pa.binary(), BINARY),
        (pa.large_binary(), BINARY),
        (pa.date32(), st.dates()),
        (pa.time64("us"), st.times()),
        (pa.timestamp("us"), st.datetimes()),
        (pa.duration("us"), st.timedeltas(datetime.timedelta(-1000), datetime.timedelta(1000))),
        (pa.decimal128(10, 2), st.integers(-(10**9), 10**9).map(lambda number: Decimal(number).scaleb(-2))),
        (pa.null(), st.none()),
    ]
)


def nested(children):
    """Strategies of types with strategies of their values, one level around those given."""

    def wrap(child):
        kind, values = child
        values = st.one_of(st.none(), values)
        kinds = [
            (pa.list_(kind), st.lists(values, max_size=3)),
            (pa.large_list(kind), st.lists(values, max_size=3)),
            (pa.list_(kind, 2), st.lists(values, min_size=2, max_size=2)),
            (pa.struct([("a", kind), ("b.c", pa.int32())]), st.fixed_dictionaries({"a": values, "b.c": st.just(7)})),
            (pa.map_(pa.string(), kind), st.dictionaries(TEXT, values, max_size=2).map(lambda items: [*items.items()])),
        ]
        return st.sampled_from(kinds)

    return children.flatmap(wrap)


def columns_of(kinds):
    return kinds.flatmap(
        lambda found: st.lists(st.one_of(st.none(), found[1]), min_size=1, max_size=4).map(
            lambda values: pa.array(values, found[0])
        )
    )


LEFT_OUT = object()


def plain(value):
    """What json is to hold of a value of Python."""
    if isinstance(value, bytes):
        if not value.startswith(b"\0"):
            return value.decode()
        return value.hex() if len(value) <= 64 else LEFT_OUT
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, dict):
        return {name: found for name, item in value.items() if (found := plain(item)) is not LEFT_OUT}
    if isinstance(value, list | tuple):
        return [None if (found := plain(item)) is LEFT_OUT else found for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def metadata_of(path, columns):
    table = {"image": pa.array([JPEG + bytes(30)] * len(next(iter(columns.values()))), pa.binary()), **columns}
    samples, reader = read_samples(Shard("s", str(write_table(path, table)), "parquet"))
    assert reader.problem is None
    assert [sample.warning for sample in samples] == [None] * len(samples)
    return [json.loads(sample.metadata or "{}") for sample in samples]


@given(columns_of(st.one_of(SCALARS, nested(SCALARS), nested(nested(SCALARS)))))
def test_metadata_is_what_pyarrow_reads(tmp_path_factory, column):
    kinds = {value.startswith(b"\0") for value in column.to_pylist() if isinstance(value, bytes)}
    assume(len(kinds) < 2)  # what a column of bytes holds is judged by all of them
    found = metadata_of(tmp_path_factory.mktemp("t") / "p.parquet", {"x": column})
    for metadata, value in zip(found, column.to_pylist(), strict=True):
        expected = plain(value)
        assert metadata == ({} if expected is LEFT_OUT else {"x": expected})


BROKEN = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 4], np.int32)), pa.py_buffer(b"caf\xe9"))
ONE = pa.array([1])


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([uuid.UUID(int=1).bytes], pa.uuid()), "00000000-0000-0000-0000-000000000001"),
        (pa.array([b"\x00\xff" * 8], pa.binary(16)), "00ff" * 8),
        (pa.array([b"abcd"], pa.binary(4)), b"abcd".hex()),  # a hash of four bytes may be letters by chance
        (pa.array([b"d41d8cd98f00b204e9800998ecf8427e"], pa.binary(32)), "d41d8cd98f00b204e9800998ecf8427e"),
        (pa.array(["cat"]).dictionary_encode(), "cat"),
        (pa.array(["x\0"], pa.string()), "x\0"),
        (pa.array(['{"a": 1}'], pa.json_()), '{"a": 1}'),
        (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1], pa.int8())), True),
        (pa.array([{"name": "x", "thumbnail": b"\0" * 100}]), {"name": "x"}),
        (pa.array([[b"\0" * 100, b"text", b"\0"]]), [None, "text", "00"]),
        (
            pa.array([2**62], pa.timestamp("us")),
            "4611686018427387904 us since 1970",
        ),  # a year that Python does not know
        (pa.array([1], pa.timestamp("us", "Nowhere")), "1970-01-01 00:00:00.000001Z"),
        (pa.StructArray.from_arrays([ONE, ONE], ["a", "a"]), {"a": 1, ".a": 1}),
        (pa.StructArray.from_arrays([BROKEN], ["a"]), {"a": "caf\\xe9"}),
        (pa.ListArray.from_arrays([0, 1], BROKEN), ["caf\\xe9"]),
    ],
    ids=str,
)
def test_types_that_json_or_python_does_not_know(tmp_path, column, expected):
    (metadata,) = metadata_of(tmp_path / "p.parquet", {"x": column})
    assert metadata == {"x": expected}
