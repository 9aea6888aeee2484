import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.shard_files import read_samples, write_table

from recap_fast.errors import ShardError
from recap_fast.records import Selection, Shard
from recap_fast.shards.table.images import begins_like_an_image

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG"
A, B = JPEG + b"a" * 31, PNG + b"b" * 30
STRUCT = {"bytes": A, "path": "d/a.jpg"}
BINARY = (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(len(A)))


def read(tmp_path, columns, **selection):
    path = write_table(tmp_path / "p.parquet", columns)
    return read_samples(Shard("s", str(path), "parquet"), selection=Selection(**selection))


@pytest.mark.parametrize(
    "column",
    [
        *(pa.array([A, B], kind) for kind in BINARY),
        *(pa.array([{"bytes": A}, {"bytes": B}], pa.struct([("bytes", kind)])) for kind in BINARY),
        pa.array([A, B]).dictionary_encode(),
        pa.ExtensionArray.from_storage(pa.opaque(pa.binary(), "image", "us"), pa.array([A, B])),
        pa.StructArray.from_arrays([pa.array([A, B]).dictionary_encode()], ["bytes"]),
        pa.array([[A], [B]]),
        pa.array([[{"bytes": A}], [{"bytes": B}]]),
        pa.array([[A], [B]], pa.large_list(pa.binary())),
        pa.array([[A], [B]], pa.list_(pa.binary(), 1)),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("name", ["image", "picture", "", "a.b"])
def test_images_of_any_type_and_name_are_found(tmp_path, column, name):
    samples, reader = read(tmp_path, {"hash": [b"\0", b"\1"], "url": [b"http://x", b"http://y"], name: column})
    assert [sample.image for sample in samples] == [A, B]
    assert [sample.url for sample in samples] == ["http://x", "http://y"]
    assert (reader.left_out, reader.problem) == ({}, None)


@pytest.mark.parametrize("null", [None, {"bytes": None, "path": None}])
def test_the_first_values_may_be_null(tmp_path, null):
    samples, _ = read(tmp_path, {"photo": [null] * 50 + [{"bytes": A, "path": None}], "blob": [b"\0" * 99] * 51})
    assert [sample.status for sample in samples] == ["missing_image"] * 50 + ["ok"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"url": ["x"], "image": ["aGVsbG8="]}, "has no column with image bytes; its columns are: url, image"),
        ({"url": [b"http://x"], "n": [1]}, "has no column with image bytes; its columns are: url, n"),
        (
            {"a": [b"\0" * 99], "b": [b"\0" * 99]},
            "no column that is known to hold images; name one with --image-column: a, b hold",
        ),
        ({"hash": [b"\0" * 8]}, "name one with --image-column: hash hold"),
        ({"x": [{"data": b"\0" * 99}]}, r"name one with --image-column: x\.data hold"),
    ],
)
def test_what_holds_no_images_is_refused_in_true_words(tmp_path, columns, words):
    with pytest.raises(ShardError, match=words):
        read(tmp_path, columns)


@pytest.mark.parametrize(
    ("columns", "name", "file_name"),
    [
        ({"image.bytes": [A], "image.path": ["d/a.jpg"]}, "image.bytes", "d/a.jpg"),
        ({"image": [STRUCT]}, "image.bytes", "d/a.jpg"),
        ({"image": [STRUCT]}, "image", "d/a.jpg"),
        ({"x": [{"n": 1, "data": A}]}, "x.data", None),
        ({"x": [{"n": 1, "y.z": {"k": 2, "i": STRUCT}}]}, "x.y.z.i", "d/a.jpg"),
        ({"x": [{"n": 1, "i": STRUCT}]}, "x.i.bytes", "d/a.jpg"),
    ],
)
def test_the_column_that_the_user_names_may_be_in_a_struct(tmp_path, columns, name, file_name):
    ((sample,), _) = read(tmp_path, {"image_2": [B], **columns}, image_column=name)
    assert (sample.image, sample.file_name, sample.key) == (A, file_name, "d/a" if file_name else "000000000")


def test_what_is_beside_the_bytes_is_metadata(tmp_path):
    columns = {
        "image": [{"path": "a.jpg", "bytes": A, "width": 7}],
        "mask": [{"bytes": B, "path": "m.png"}],
        "imgs": [[{"bytes": B, "alt": "x"}]],
    }
    ((sample,), reader) = read(tmp_path, columns)
    assert json.loads(sample.metadata) == {"image": {"width": 7}, "mask": {"path": "m.png"}, "imgs": [{"alt": "x"}]}
    assert (sample.file_name, reader.left_out) == ("a.jpg", {"further images of a sample": 2})


def test_columns_of_one_name_and_names_that_differ_in_case(tmp_path):
    arrays = [pa.array([A]), pa.array([B]), *map(pa.array, (["a"], ["b"], ["U"], ["u"], [1], [2]))]
    names = ["image", "image", "text", "text", "URL", "url", "x", "x"]
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_arrays(arrays, names=names), path)
    ((sample,), reader) = read_samples(Shard("s", str(path), "parquet"))
    assert (sample.image, sample.org_caption, sample.url) == (A, "a", "u")
    assert json.loads(sample.metadata) == {"text": "b", "URL": "U", "x": 1, ".x": 2}
    assert reader.left_out == {"further images of a sample": 1}


def test_of_several_columns_the_first_in_order_or_the_named_one(tmp_path):
    columns = {"before": [A, None, None], "after": [B, B, None]}
    samples, reader = read(tmp_path, columns)
    assert [(s.image, s.file_name, s.status) for s in samples] == [
        (A, "before", "ok"),
        (B, "after", "ok"),
        (b"", "before", "missing_image"),
    ]
    assert reader.left_out == {"further images of a sample": 1}
    samples, reader = read(tmp_path, columns, image_key="after")
    assert [sample.image for sample in samples] == [B, B, b""]
    assert reader.left_out == {"further images of a sample": 1}
    with pytest.raises(ShardError, match="no column 'x' of --image-key with images; those with images are: 'before'"):
        read(tmp_path, columns, image_key="x")
    samples, _ = read(tmp_path, {"thumbnail": [B], "image": [A]})
    assert samples[0].image == A


@pytest.mark.parametrize(
    "start",
    [
        *(
            "ffd8ffe0",
            "89504e470d0a1a0a",
            "474946383961",
            "424d36000000",
            "49492a00",
            "4d4d002a",
            "00000100",
            "50360a3100",
        ),
        *("0000000c6a5020200d0a", "0000000c4a584c20", "ff0a", "ff4fff51", "716f696600", "384250530001"),
        *("524946460000000057454250", "0000001c6674797061766966", "000000186674797068656963"),
    ],
)
def test_the_formats_that_images_have(start):
    assert begins_like_an_image(bytes.fromhex(start) + bytes(40))


@pytest.mark.parametrize(
    "text", [b"BMW at a lake", b"P6 and P7", b"GIF89a", b"RIFFxxxxWAVE\0", b"\0\0\0\x18ftypmp42", b"%PDF-1.7\0", b""]
)
def test_what_only_begins_alike(text):
    assert not begins_like_an_image(text)


def test_a_damaged_column_beside_the_images_does_not_decide_about_them(tmp_path):
    columns = {"photo": [A] * 3, "hash": [b"\0\1"] * 3}
    path = write_table(tmp_path / "p.parquet", columns, compression="none", use_dictionary=False)
    chunk = pq.read_metadata(path).row_group(0).column(1)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 8] = b"\xff" * 8
    path.write_bytes(content)
    samples, reader = read_samples(Shard("s", str(path), "parquet"))
    assert [sample.image for sample in samples] == [A] * 3
    assert "the column 'hash' cannot be read" in reader.problem


IMAGES = st.sampled_from([None, A, B])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "flat": IMAGES,
            "struct": IMAGES.flatmap(lambda image: st.sampled_from([None, {"bytes": image, "path": None}])),
            "list": st.one_of(st.none(), st.lists(IMAGES, max_size=3)),
            "structs": st.one_of(st.none(), st.lists(IMAGES.map(lambda image: {"bytes": image}), max_size=2)),
        }
    ),
    max_size=8,
)
KINDS = {
    "flat": pa.binary(),
    "struct": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "list": pa.list_(pa.binary()),
    "structs": pa.list_(pa.struct([("bytes", pa.binary())])),
}


def images_of(row, names):
    cells = [each for name in names for each in (row[name] if isinstance(row[name], list) else [row[name]])]
    return [image for cell in cells if (image := cell["bytes"] if isinstance(cell, dict) else cell) is not None]


@given(
    rows=ROWS,
    names=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3, unique=True),
    takes_all=st.booleans(),
    has_statistics=st.booleans(),
    done=st.sets(st.integers(0, 30)),
)
def test_every_image_has_a_row_or_is_counted(tmp_path_factory, rows, names, takes_all, has_statistics, done):
    path = tmp_path_factory.mktemp("t") / "p.parquet"
    arrays = {name: pa.array([row[name] for row in rows], KINDS[name]) for name in names}
    pq.write_table(
        pa.table(arrays), path, row_group_size=3, write_statistics=has_statistics, use_dictionary=not has_statistics
    )
    known = [name for name in names if any(images_of(row, [name]) for row in rows)]
    assume(known)  # of a column without any it is not known that it is one of images
    selection = Selection(images="all" if takes_all else "first")
    samples, reader = read_samples(Shard("s", str(path), "parquet"), selection=selection, done=sorted(done))
    found = [images_of(row, known) for row in rows]
    expected = [image for images in found for image in (images if takes_all else images[:1]) or [b""]]
    assert reader.num_samples == len(expected)
    assert {sample.index: sample.image for sample in samples} == {
        index: image for index, image in enumerate(expected) if index not in done
    }
    left_out = 0 if takes_all else sum(len(images[1:]) for images in found)
    assert reader.left_out == ({"further images of a sample": left_out} if left_out else {})
    assert reader.problem is None
