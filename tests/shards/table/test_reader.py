import datetime
import json
import tracemalloc
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from support.shard_files import read_samples, write_table

from recap_fast.errors import ShardError
from recap_fast.records import Selection, Shard
from recap_fast.shards.reader import open_shard


def read(path, **options):
    return read_samples(Shard("s", str(path), "parquet"), **options)


def read_columns(tmp_path, columns, **options):
    return read(write_table(tmp_path / "p.parquet", columns, **options))


def test_a_table_of_images_as_datacomp_names_its_columns(tmp_path):
    columns = {
        "jpg": [b"1", b"2"],
        "URL": ["http://x/0", None],
        "uid": ["u0", "u1"],
        "TEXT": ["alt  0\n", None],
        "key": ["k0", "k1"],
        "sha256": ["AB" * 32, None],
        "clip_score": [0.25, float("nan")],
        "original_width": pa.array([3, 4], pa.int32()),
    }
    (one, two), reader = read_columns(tmp_path, columns)
    assert (reader.num_samples, reader.problem) == (2, None)
    assert (one.key, one.image, one.url, one.uid) == ("k0", b"1", "http://x/0", "u0")
    assert (one.org_caption, one.sha256) == ("alt  0\n", "ab" * 32)
    assert json.loads(one.metadata) == {"clip_score": 0.25, "original_width": 3}
    assert (two.url, two.org_caption, len(two.sha256)) == (None, None, 64)
    assert json.loads(two.metadata) == {"clip_score": None, "original_width": 4}


def test_the_hubs_image_struct(tmp_path):
    images = [
        {"bytes": b"1", "path": "a/b.c.jpg"},
        {"bytes": b"2", "path": None},
        {"bytes": None, "path": "z.jpg"},
        None,
    ]
    samples, _ = read_columns(tmp_path, {"image": images, "caption": ["0", "1", "2", "3"]})
    assert [s.key for s in samples] == ["a/b.c", "000000001", "z", "000000003"]
    assert [s.status for s in samples] == ["ok", "ok", "missing_image", "missing_image"]
    assert samples[2].error == "the column 'image' holds no image here, only the path z.jpg"
    assert [s.org_caption for s in samples] == ["0", "1", "2", "3"]
    assert samples[0].metadata is None


def test_the_image_that_the_user_names_has_the_name_of_its_column(tmp_path):
    jpeg = b"\xff\xd8\xff" + b"a" * 30
    path = write_table(tmp_path / "p.parquet", {"left": [jpeg], "right": [jpeg + b"r"]})
    assert [(s.image, s.file_name) for s in read(path, selection=Selection(image_key="right"))[0]] == [
        (jpeg + b"r", "right")
    ]


def test_columns_that_the_user_names(tmp_path):
    path = write_table(
        tmp_path / "p.parquet",
        {"image": [b"\1" * 65], "x": [b"2"], "caption": ["a"], "org_caption": ["b"], "mine": ["c"]},
    )
    assert [(s.image, s.org_caption) for s in read(path)[0]] == [(b"\1" * 65, "b")]
    (sample,), _ = read(path, selection=Selection(image_column="x", caption_column="mine"))
    assert (sample.image, sample.org_caption) == (b"2", "c")
    assert json.loads(sample.metadata) == {"caption": "a", "org_caption": "b"}
    with pytest.raises(ShardError, match="there is no column 'gone'"):
        read(path, selection=Selection(caption_column="gone"))


def test_types_that_json_does_not_know(tmp_path):
    values = {
        "image": [b"1"],
        "day": [datetime.date(2024, 1, 2)],
        "nanoseconds": pa.array([1], pa.timestamp("ns")),
        "price": [Decimal("1.50")],
        "boxes": [[[1.0, float("inf")]]],
        "nested": [{"a": 1, "b": "x"}],
        "raw": [b"\0" * 100],
        "label": pa.array(["cat"]).dictionary_encode(),
        "id": pa.array([7], pa.uint64()),
    }
    (sample,), _ = read_columns(tmp_path, values)
    metadata = json.loads(sample.metadata)
    assert metadata.pop("nanoseconds").replace("T", " ") == "1970-01-01 00:00:00.000000001"  # "T" where pandas is there
    assert metadata == {
        "day": "2024-01-02",
        "price": "1.50",
        "boxes": [[1.0, None]],
        "nested": {"a": 1, "b": "x"},
        "label": "cat",
        "id": 7,
    }


def test_strings_that_are_not_utf8(tmp_path):
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 4], np.int32)), pa.py_buffer(b"caf\xe9"))
    columns = {"image": [b"1"], "caption": broken, "url": broken, "other": broken}
    (sample,), _ = read_columns(tmp_path, columns)
    assert (sample.org_caption, sample.url) == ("caf\\xe9", "caf\\xe9")
    assert json.loads(sample.metadata) == {"other": "caf\\xe9"}
    assert "the caption is not UTF-8" in sample.warning


def test_rows_that_are_done_are_left_out_over_row_groups(tmp_path):
    path = write_table(tmp_path / "p.parquet", {"image": [bytes([i]) for i in range(100)]}, row_group_size=7)
    done = np.array([0, 1, *range(7, 50), 99])
    samples, _ = read(path, done=done)
    assert [s.index for s in samples] == [i for i in range(100) if i not in set(done.tolist())]
    assert all(s.image == bytes([s.index]) for s in samples)


def test_a_damaged_row_group_costs_its_rows_and_is_reported(tmp_path):
    images = [bytes([i]) * 2000 for i in range(20)]
    path = write_table(
        tmp_path / "p.parquet", {"image": images}, row_group_size=5, compression="none", use_dictionary=False
    )
    content = bytearray(path.read_bytes())
    start = content.index(images[5]) - 60
    content[start : start + 60] = b"\xff" * 60  # the header of the second group's page
    path.write_bytes(content)
    samples, reader = read(path)
    assert [s.index for s in samples] == list(range(20))
    lost = [s for s in samples if s.status == "unreadable"]
    assert [s.key for s in lost] == [f"{i:09d}" for i in range(5, 10)]
    assert "row group 1 cannot be read from row 5" in reader.problem
    assert not any("\n" in text for text in (reader.problem, *(s.error for s in lost)))


def test_paths_that_are_stored_as_binary(tmp_path):
    jpeg = b"\xff\xd8\xff" + b"a" * 30
    paths = [b"d/a.jpg", b"caf\xe9.jpg"]
    struct = {"image": [{"bytes": jpeg, "path": path} for path in paths]}
    flat = {"image.bytes": [jpeg] * 2, "image.path": paths}
    for columns in (struct, flat):
        samples, _ = read_columns(tmp_path, columns)
        assert [(s.file_name, s.key, s.metadata) for s in samples] == [
            ("d/a.jpg", "d/a", None),
            ("caf\\xe9.jpg", "caf\\xe9", None),
        ]


def test_rows_without_an_image_say_what_is_there(tmp_path):
    images = [[b"1"], [], None]
    samples, _ = read(
        write_table(tmp_path / "p.parquet", {"images": images}), selection=Selection(image_column="images")
    )
    assert [s.error for s in samples] == [None, *["the column 'images' holds no image here"] * 2]


def test_what_is_no_table_of_images_is_a_shard_error(tmp_path):
    (tmp_path / "p.parquet").write_bytes(b"PAR1 garbage")
    with pytest.raises(ShardError, match=r"p\.parquet is not a readable Parquet file"):
        read(tmp_path / "p.parquet")
    with pytest.raises(ShardError, match="has no column with image bytes; its columns are: url"):
        read(write_table(tmp_path / "q.parquet", {"url": ["x"]}))


def test_large_images_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("recap_fast.shards.table.reader.MAX_IMAGE_BYTES", 10)
    (sample,), _ = read_columns(tmp_path, {"image": [b"x" * 11]})
    assert (sample.status, sample.error) == ("too_large", "the image has 11 bytes")


def test_remote(memory, tmp_path):
    memory.pipe("/b/p.parquet", write_table(tmp_path / "p.parquet", {"image": [b"1"]}).read_bytes())
    assert [s.image for s in read("memory://b/p.parquet")[0]] == [b"1"]


def test_memory_is_bounded_by_pages_and_not_by_row_groups(tmp_path):
    images = [np.random.default_rng(i).bytes(100_000) for i in range(500)]
    path = write_table(
        tmp_path / "p.parquet", {"image": images}, use_dictionary=False, write_batch_size=8
    )  # pages of 1 MB
    del images
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    peak = 0
    with open_shard(Shard("s", str(path), "parquet")) as reader:
        for _ in reader.samples(np.empty(0, np.int64)):
            peak = max(peak, pa.total_allocated_bytes() - before)
    python_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15_000_000  # of 50 MB in one row group
    assert python_peak < 2_000_000
