import errno
import io
import json
import os
import tarfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.examples import share
from support.shard_files import read_samples, tar_bytes, webdataset_members, write_tar

from recap_fast.errors import ShardError
from recap_fast.records import READ_AGAIN, Selection, Shard
from recap_fast.shards.reader import open_shard


def read(path, selection=None):
    return read_samples(Shard("s", str(path), "tar"), selection=selection)


def read_members(tmp_path, members, selection=None):
    return read(write_tar(tmp_path / "s.tar", members), selection)


@share(0.3)
@given(st.permutations(range(12)))
@example(range(12))
def test_the_layout_of_img2dataset_in_any_order_of_members(tmp_path_factory, order):
    members = webdataset_members(4)
    path = write_tar(tmp_path_factory.mktemp("tar") / "s.tar", [members[i] for i in order])
    samples, reader = read(path)
    assert (reader.num_samples, reader.problem) == (4, None)
    expected = list(dict.fromkeys(members[i][0].partition(".")[0] for i in order))
    assert [(sample.index, sample.key) for sample in samples] == list(enumerate(expected))
    for sample in samples:
        number = int(sample.key)
        assert (sample.shard, sample.url, sample.uid) == ("s", f"http://x/{number}", f"u{number}")
        assert (sample.org_caption, sample.sha256) == (f"alt {number}", f"{number:064x}")
        assert sample.image == f"image {number}".encode() * 20
        assert json.loads(sample.metadata)["key"] == sample.key
        assert (sample.status, sample.error, sample.warning) == ("ok", None, None)


def test_a_repeated_key_starts_a_new_sample_and_is_reported(tmp_path, caplog):
    members = [("a.jpg", b"1"), ("a.txt", b"one"), ("b.jpg", b"x"), ("a.jpg", b"2"), ("a.txt", b"two")]
    samples, _ = read_members(tmp_path, members)
    assert [(s.key, s.image, s.org_caption) for s in samples] == [
        ("a", b"1", "one"),
        ("b", b"x", None),
        ("a", b"2", "two"),
    ]
    assert [s.warning for s in samples] == [None, None, "an earlier sample of this shard has the same key"]
    assert "1 sample repeats the key of another; the column `warning` says which" in caplog.text


def test_more_extensions_than_a_mask_holds(tmp_path):
    members = [(f"a.x{i}", b"") for i in range(100)] + [("a.jpg", b"1"), ("a.x99", b""), ("a.jpg", b"2")]
    samples, _ = read_members(tmp_path, members)
    assert [s.image for s in samples] == [b"1", b"2"]


def test_missing_and_empty_images_are_rows(tmp_path):
    samples, reader = read_members(
        tmp_path, [("a.txt", b"t"), ("a.json", b"{}"), ("b.jpg", b""), ("b.txt", b"u"), ("c.npy", b"1")]
    )
    assert [(s.key, s.status, s.error) for s in samples] == [
        ("a", "missing_image", "no image among its files: json, txt"),
        ("b", "empty_image", "The image has no bytes."),
    ]
    assert [s.org_caption for s in samples] == ["t", "u"]
    assert [s.file_name for s in samples] == [None, "b.jpg"]
    assert reader.left_out == {"files that belong to no image (.npy)": 1}


SIDES = [
    ("a.Left.JPG", b"left"),
    ("a.txt", b"whole"),
    ("a.right.png", b"right"),
    ("a.left.txt", b"on the left"),
    ("a.right.json", b'{"uid": "r", "n": 1}'),
    ("a.json", b'{"uid": "a", "n": 0, "m": 2}'),
    ("a.cls", b"7\n"),
    ("a.meta.json", b'{"x": [1, NaN]}'),
    ("a.npy", b"\x93NUMPY\0"),
    ("a.unknown", b"\0\1"),
    ("a.thumbnail.webp", b"t"),
]


def test_of_several_images_the_first_in_the_tar_is_captioned_and_the_others_are_counted(tmp_path):
    (sample,), reader = read_members(tmp_path, SIDES)
    assert (sample.image, sample.file_name, sample.org_caption, sample.uid) == (
        b"left",
        "a.Left.JPG",
        "on the left",
        "a",
    )
    assert sample.warning == "several images: .left.jpg is captioned, 2 more are not"
    assert reader.left_out == {"further images of a sample": 2}
    assert json.loads(sample.metadata) == {
        "uid": "a", "n": 0, "m": 2, "txt": "whole", "right.json": {"uid": "r", "n": 1}, "cls": 7,
        "meta.json": {"x": [1, None]},
    }  # fmt: skip


def test_every_image_of_a_sample_has_a_row_of_its_own_where_that_is_asked_for(tmp_path):
    samples, reader = read_members(tmp_path, SIDES, Selection(images="all"))
    assert [(s.index, s.key, s.file_name, s.image) for s in samples] == [
        (0, "a", "a.Left.JPG", b"left"),
        (1, "a", "a.right.png", b"right"),
        (2, "a", "a.thumbnail.webp", b"t"),
    ]
    assert [s.org_caption for s in samples] == ["on the left", "whole", "whole"]
    assert [s.uid for s in samples] == ["a", "r", "a"]
    left, right, _ = (json.loads(s.metadata) for s in samples)
    assert "right.json" not in left
    assert (right["n"], right["m"], right["cls"]) == (1, 2, 7)
    assert (reader.left_out, [s.warning for s in samples]) == ({}, [None] * 3)


@pytest.mark.parametrize("key", ["right.png", "RIGHT", ".right.png"])
def test_the_image_that_the_user_names(tmp_path, key):
    members = [*SIDES, ("b.left.jpg", b"l"), ("b.left.txt", b"x"), ("c.right.png", b"c")]
    samples, reader = read_members(tmp_path, members, Selection(image_key=key))
    assert [(s.key, s.image, s.status) for s in samples] == [
        ("a", b"right", "ok"),
        ("b", b"", "missing_image"),
        ("c", b"c", "ok"),
    ]
    assert samples[1].error == f"no image {key!r} among its files: left.jpg, left.txt"
    assert [s.warning for s in samples] == ["several images: .right.png is captioned, 2 more are not", None, None]
    assert reader.left_out == {"further images of a sample": 3}


def test_names_that_are_not_utf8_and_odd_texts(tmp_path):
    text = "\ufeffa caf\u00e9".encode("utf-16")
    members = [("a.jpg", b"1"), ("a.text", b"caf\xe9"), ("a.cls", b"cat"), ("a.note", text), ("a.md", b"\xff")]
    (sample,), _ = read_members(tmp_path, members)
    assert sample.org_caption == "caf\\xe9"
    assert json.loads(sample.metadata) == {"cls": "cat", "note": "a caf\u00e9", "md": "\\xff"}
    assert "the .md is not UTF-8 at byte 0" in sample.warning


def test_text_beyond_the_room_of_a_sample_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("recap_fast.shards.tar.reader.MAX_TEXT_BYTES", 10)
    members = [("a.jpg", b"1"), ("a.json", b"{}"), ("a.x", b"123456"), ("a.y", b"12345"), ("a.z", b"1234")]
    (sample,), _ = read_members(tmp_path, members)
    assert json.loads(sample.metadata) == {"x": "123456", "z": "1234"}
    assert sample.warning == "the .y has 5 bytes and is not read"


def test_a_text_that_cannot_be_read_is_read_again(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "s.tar", [("a.jpg", b"1"), ("a.txt", b"23")])
    pread = os.pread

    def fail(file, size, offset):
        if size == 2:
            raise OSError(errno.EIO, "Input/output error")
        return pread(file, size, offset)

    monkeypatch.setattr(os, "pread", fail)
    (sample,), reader = read(path)
    assert (sample.status, sample.org_caption) == ("ok", None)
    assert sample.warning.endswith(f"the .txt cannot be read: [Errno 5] Input/output error {READ_AGAIN}")
    assert "cannot be read at byte 1,536" in reader.problem


def test_a_size_that_no_file_has_costs_that_member_alone(tmp_path):
    content = tar_bytes(webdataset_members(20))[: -10240 + 512 * 2]
    for size in (2**63 - 1, 2**63, 2**80, 2**88 - 1):
        header = bytearray(tar_bytes([("z.jpg", b"")])[:512])
        header[124:136] = b"\x80" + size.to_bytes(11, "big")
        header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
        (tmp_path / "s.tar").write_bytes(content[: 20 * 3 * 1024] + header)
        samples, reader = read(tmp_path / "s.tar")
        assert [s.status for s in samples] == ["ok"] * 20 + ["truncated"]
        assert "cut off at byte" in reader.problem


def test_names_that_are_not_utf8(tmp_path):
    info = tarfile.TarInfo("caf\udce9.jpg")
    info.size = 1
    content = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + b"1".ljust(512, b"\0") + bytes(1024)
    (tmp_path / "s.tar").write_bytes(content)
    assert read(tmp_path / "s.tar")[0][0].key == "caf\\xe9"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_cut_anywhere_yields_exactly_the_whole_samples(tmp_path, form):
    members = [
        (name.replace("000000001", "n" * 120 + "/b"), content) if form == tarfile.PAX_FORMAT else (name, content)
        for name, content in webdataset_members(2)
    ]
    content = tar_bytes(members, form)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        infos = tar.getmembers()
    content = content[: infos[-1].offset_data + 512 + 1024]
    ends = [info.offset_data + info.size for info in infos]
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    near = {512 * block + more for block in range(len(content) // 512 + 1) for more in (-1, 0, 1)}
    near |= {end + more for end in ends for more in (-1, 0, 1)} | {*range(0, len(content), 61)}
    for size in sorted((size for size in near if 0 <= size <= len(content)), reverse=True):
        os.truncate(path, size)
        if size < 512:
            with pytest.raises(ShardError, match=f"is not a tar: it has {size} bytes"):
                read(path)
            continue
        samples, reader = read(path)
        seen = [number for number, info in enumerate(infos) if info.offset_data <= size]
        cut = [number for number in seen if ends[number] > size]
        whole = {number // 3 for number in seen} - {number // 3 for number in cut}
        assert [s.index for s in samples if s.status == "ok"] == [i for i in sorted(whole) if 3 * i in seen]
        assert [s.index for s in samples if s.status == "truncated"] == sorted({number // 3 for number in cut})
        for sample in samples:
            if sample.status == "ok":
                assert sample.image == members[3 * sample.index][1]
        is_whole = size >= len(content) - 512  # one of the two blocks that mark the end is there
        assert (reader.problem is None) == is_whole
        if not is_whole:
            assert f"cut off at byte {size:,}" in reader.problem


def test_a_sample_at_a_clean_cut_carries_a_warning(tmp_path):
    content = tar_bytes(webdataset_members(2))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        offset = tar.getmembers()[4].offset
    (tmp_path / "s.tar").write_bytes(content[:offset])
    samples, reader = read(tmp_path / "s.tar")
    assert [s.warning for s in samples] == [None, "the shard breaks off after this sample: parts of it may be missing"]
    assert reader.problem == f"cut off at byte {offset:,}: there is no end-of-archive mark"


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = write_tar(tmp_path / "s.tar", webdataset_members(2))
    with open_shard(Shard("s", str(path), "tar")) as reader:
        path.write_bytes(path.read_bytes()[:600])
        samples = list(reader.samples(np.empty(0, np.int64)))
        assert [s.status for s in samples] == ["unreadable", "unreadable"]
        assert "has become shorter" in samples[0].error
        assert "cannot be read at byte 512" in reader.problem


def test_large_members_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("recap_fast.shards.tar.reader.MAX_IMAGE_BYTES", 10)
    monkeypatch.setattr("recap_fast.shards.tar.reader.MAX_TEXT_BYTES", 2)
    samples, _ = read_members(tmp_path, [("a.jpg", b"x" * 11), ("a.txt", b"xyz")])
    assert (samples[0].status, samples[0].error) == ("too_large", "the .jpg has 11 bytes")
    assert samples[0].warning == "the .txt has 3 bytes and is not read"


def test_garbage_is_a_shard_error_and_its_file_is_closed(tmp_path):
    """One that stays open is a ResourceWarning, which fails the tests."""
    (tmp_path / "s.tar").write_bytes(b"garbage " * 1000)
    with pytest.raises(ShardError, match=r"s\.tar is not a tar"):
        read(tmp_path / "s.tar")


def test_memory_does_not_grow_with_the_size_of_the_images(tmp_path):
    peaks = []
    for size in (1_000, 1_000_000):
        path = write_tar(tmp_path / f"{size}.tar", [(f"{i:05d}.jpg", bytes([i]) * size) for i in range(40)])
        tracemalloc.start()
        with open_shard(Shard("s", str(path), "tar")) as reader:
            reading = tracemalloc.get_traced_memory()[1]
            for _ in reader.samples(np.empty(0, np.int64)):
                pass
        peaks.append((reading, tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
    assert peaks[1][0] < peaks[0][0] + 20_000
    assert peaks[1][1] < 4_000_000  # a few images, never the 40 MB of the shard
