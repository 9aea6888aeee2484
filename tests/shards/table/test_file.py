"""Damage, lies and sizes: what a Parquet file may do to its reader."""

import json
import random
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import mutated_tables
from support.shard_files import read_samples, write_table

from recap_fast.errors import ShardError
from recap_fast.records import READ_AGAIN, Selection, Shard
from recap_fast.shards.reader import open_shard

JPEG = b"\xff\xd8\xff"
MB = 1 << 20


def shard(path):
    return Shard("s", str(path), "parquet")


def damage(path, column, group):
    """Makes the pages of a column in a row group ones that cannot be read."""
    chunk = pq.read_metadata(path).row_group(group).column(column)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 8] = b"\xff" * 8
    path.write_bytes(content)


def patch_footer(path, old, new):
    """Replaces bytes of the footer with as many others."""
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    assert content[start:].count(old) >= 1
    assert len(old) == len(new)
    path.write_bytes(content[:start] + content[start:].replace(old, new))


def images(num):
    return [JPEG + bytes([i]) * 50 for i in range(num)]


def test_a_damaged_column_of_metadata_costs_its_values_alone(tmp_path):
    columns = {"image": images(20), "caption": [f"c{i}" for i in range(20)], "url": [f"u{i}" for i in range(20)]}
    path = write_table(tmp_path / "p.parquet", columns, row_group_size=5, compression="none", use_dictionary=False)
    damage(path, 1, 2)
    samples, reader = read_samples(shard(path))
    assert [sample.image for sample in samples] == columns["image"]
    assert [sample.url for sample in samples] == columns["url"]
    lost = set(range(10, 15))
    assert [s.org_caption for s in samples] == [None if i in lost else f"c{i}" for i in range(20)]
    assert {s.index for s in samples if s.warning} == lost
    assert all(samples[i].warning.startswith("the column 'caption' cannot be read: ") for i in lost)
    assert all(samples[i].warning.endswith(READ_AGAIN) for i in lost)
    assert reader.problem.startswith("row group 2: the column 'caption' cannot be read: ")


def test_a_damaged_column_of_images_costs_the_row_group(tmp_path):
    for selection in (Selection(), Selection(images="all")):
        path = write_table(
            tmp_path / "p.parquet",
            {"image": images(20), "n": range(20), "other": images(20)},
            row_group_size=5,
            compression="none",
            use_dictionary=False,
        )
        damage(path, 0, 2)
        samples, reader = read_samples(shard(path), selection=selection)
        per_row = 2 if selection.images == "all" else 1
        lost = set(range(10 * per_row, 15 * per_row))
        assert [s.index for s in samples] == list(range(20 * per_row))
        assert {s.index for s in samples if s.status == "unreadable"} == lost
        assert "row group 2 cannot be read from row" in reader.problem


def test_a_checksum_that_is_wrong_is_damage(tmp_path):
    path = write_table(
        tmp_path / "p.parquet", {"image": images(3)}, compression="none", use_dictionary=False, write_page_checksum=True
    )
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x01" * 50, b"\x01" * 49 + b"\x02"))
    samples, reader = read_samples(shard(path))
    assert [sample.status for sample in samples] == ["unreadable"] * 3
    assert "CRC checksum verification failed" in reader.problem


def test_a_footer_that_says_other_numbers_of_rows_than_its_row_groups(tmp_path):
    for said in (39, 41):
        path = write_table(tmp_path / "p.parquet", {"image": images(40)}, row_group_size=20)
        zigzag = {39: b"\x16\x4e", 41: b"\x16\x52"}[said]  # num_rows, a field of its own in the footer
        patch_footer(path, b"\x16\x50\x19", zigzag + b"\x19")
        samples, reader = read_samples(shard(path))
        assert len(samples) == reader.num_samples == 40
        assert reader.problem == f"its footer says {said} rows, and its row groups have 40"


@pytest.mark.parametrize(
    ("said", "num", "words"),
    [
        (9, 5, "row group 0 has 5 of the 9 samples that its footer says"),
        (3, 3, "row group 0 has 3 rows by its footer, and its column 'image' 5"),
    ],
)
@pytest.mark.parametrize("takes_all", [False, True])
def test_a_row_group_with_another_number_of_rows_than_its_footer_says(tmp_path, said, num, words, takes_all):
    columns = {"image": images(10), "n": range(10), "text": ["a"] * 10}
    path = write_table(tmp_path / "p.parquet", columns, row_group_size=5)
    content = path.read_bytes()
    at = content.index(b"\x16\x0a\x26", len(content) - 8 - int.from_bytes(content[-8:-4], "little"))
    content = content[:at] + bytes([0x16, 2 * said]) + content[at + 2 :]  # num_rows of the first group, in zigzag
    total = content.rindex(b"\x16\x14\x19")
    path.write_bytes(content[: total + 1] + bytes([2 * (said + 5)]) + content[total + 2 :])
    footer = pq.read_metadata(path)
    assert [footer.num_rows, footer.row_group(0).num_rows, footer.row_group(1).num_rows] == [said + 5, said, 5]
    samples, reader = read_samples(shard(path), selection=Selection(images="all" if takes_all else "first"))
    assert [(s.index, s.image) for s in samples] == [
        *enumerate(images(num)),
        *enumerate(images(10)[5:], start=said),
    ]
    assert reader.problem == words


def test_a_name_that_is_not_utf8_is_a_sentence(tmp_path):
    path = write_table(tmp_path / "p.parquet", {"image": images(2), "name": [1, 2]}, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"name", b"nam\xe9"))
    with pytest.raises(ShardError, match="has a column whose name is not UTF-8"):
        read_samples(shard(path))


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1PAR1", b"PAR1" + b"\xff" * 100 + b"\x20\0\0\0PAR1", b"x" * 1000]
)
def test_what_is_no_parquet_file_is_a_sentence(tmp_path, content):
    (tmp_path / "p.parquet").write_bytes(content)
    with pytest.raises(ShardError, match=r"p\.parquet is not a readable Parquet file: "):
        read_samples(shard(tmp_path / "p.parquet"))


def test_a_folder_in_place_of_a_file_is_a_sentence(tmp_path):
    with pytest.raises(ShardError, match="it is a folder, not a file"):
        read_samples(shard(tmp_path))


def peak_bytes(path, **selection):
    """The most that pyarrow and Python hold while a shard is read, and the statuses."""
    pool, statuses = pa.default_memory_pool(), []
    before, peak = pool.bytes_allocated(), 0
    tracemalloc.start()
    with open_shard(shard(path), Selection(**selection)) as reader:
        for sample in reader.samples(np.empty(0, np.int64)):
            statuses.append(sample.status)
            peak = max(peak, pool.bytes_allocated() - before)
            del sample
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, python, statuses


@pytest.mark.parametrize("kind", [pa.binary(), pa.struct([("bytes", pa.binary())])], ids=str)
@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_small_file_with_one_image_over_and_over(tmp_path, monkeypatch, kind, as_dictionary):
    monkeypatch.setattr("recap_fast.shards.table.file.BATCH_BYTES", MB)
    size, num = 6 * MB, 64
    values = pa.array([JPEG + bytes(size)])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * num, pa.int32()), values)
    if pa.types.is_struct(kind):
        column = pa.StructArray.from_arrays([column], ["bytes"])
    path = tmp_path / "p.parquet"
    pq.write_table(
        pa.table({"image": column}),
        path,
        compression="zstd",
        dictionary_pagesize_limit=1 << 30,
        store_schema=as_dictionary,
    )
    assert path.stat().st_size < 10_000
    peak, python, statuses = peak_bytes(path)
    assert statuses == ["ok"] * num
    assert peak < 6 * size  # of 64
    assert python < 3 * size


def test_a_small_file_with_one_text_over_and_over_in_a_list(tmp_path):
    size, num = 4 * MB, 100
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * num, pa.int32()), pa.array(["x" * size, "y"]))
    lists = pa.ListArray.from_arrays([0, num // 2, num], texts)
    path = tmp_path / "p.parquet"
    pq.write_table(
        pa.table({"image": images(2), "texts": lists}),
        path,
        compression="zstd",
        dictionary_pagesize_limit=1 << 30,
        store_schema=False,
    )
    assert path.stat().st_size < 10_000
    (one, two), _ = read_samples(shard(path))
    assert one.warning == two.warning == f"the column 'texts' has {num // 2 * size:,} bytes here and is not read"
    assert json.loads(one.metadata) == {"texts": None}
    peak, python, _ = peak_bytes(path)
    assert peak + python < 10 * size  # of 100


def test_long_texts_beside_images_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("recap_fast.shards.table.file.BATCH_BYTES", MB)
    num, size = 40, MB // 4
    texts = ["x" * size] * num
    columns = {"image": images(num), "a": texts, "b": texts}
    path = write_table(tmp_path / "p.parquet", columns, use_dictionary=False, write_batch_size=1)  # a page for each
    peak, _, statuses = peak_bytes(path)
    assert statuses == ["ok"] * num
    assert peak < 6 * MB  # of 20


@pytest.mark.parametrize("num_files", [150, pytest.param(4000, marks=pytest.mark.fuzz)])
def test_files_with_wrong_bytes_are_read_or_refused(tmp_path, num_files):
    mutated_tables.check(random.randrange(2**32), num_files, tmp_path / "p.parquet")


def test_a_small_file_with_one_image_over_and_over_in_a_list(tmp_path):
    size, num = 3 * MB, 100
    values = pa.DictionaryArray.from_arrays(pa.array([0] * num, pa.int32()), pa.array([JPEG + bytes(size)]))
    path = tmp_path / "p.parquet"
    lists = pa.ListArray.from_arrays([0, num // 2, num], pa.StructArray.from_arrays([values], ["bytes"]))
    pq.write_table(
        pa.table({"images": lists}), path, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False
    )
    assert path.stat().st_size < 10_000
    peak, python, statuses = peak_bytes(path, images="all")
    assert statuses == ["ok"] * num
    assert peak + python < 10 * size  # of 100
