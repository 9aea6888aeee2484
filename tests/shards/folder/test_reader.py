import json
import os
import threading
from pathlib import Path

import pytest
from support.guard import GUARD_S, guarded
from support.ledgers import shards_of, unit_of
from support.shard_files import read_samples, webdataset_members

from recap_fast.records import ImageFile
from recap_fast.shards.folder import reader as reader_module
from recap_fast.shards.folder.reader import NUM_THREADS
from recap_fast.shards.identity import identity


def test_images_with_what_lies_beside_them(tmp_path):
    for name, content in webdataset_members(3):
        (tmp_path / "00000").mkdir(exist_ok=True)
        (tmp_path / "00000" / name).write_bytes(content)
    (tmp_path / "lone.v2.jpg").write_bytes(b"x")
    (shard,) = shards_of(tmp_path)
    samples, _ = read_samples(shard)
    assert [s.key for s in samples] == [*(f"00000/{i:09d}" for i in range(3)), "lone.v2"]
    assert [s.org_caption for s in samples] == ["alt 0", "alt 1", "alt 2", None]
    assert samples[1].uid == "u1"
    assert samples[3].metadata is None


def test_all_texts_beside_an_image_come_with_it(tmp_path, caplog):
    files = {
        "a.jpg": b"1", "a.caption": b"a cat", "a.cls": b"7\n", "a.meta.json": b'{"x": [1, NaN]}', "a.caption.txt": b"c",
        "a.b.jpg": b"2", "a.b.TXT": b"upper", "a.b.Json": b'{"uid": "u"}', "a.cr2": b"raw", "lone.cls": b"1",
        "c.jpg": b"3", "c.txt": b"first", "c.caption": b"second", "c.TXT": b"third",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    samples, _ = read_samples(unit_of(tmp_path, "a.b.jpg", "a.jpg", "c.jpg"))
    assert [(s.org_caption, s.uid, s.warning) for s in samples] == [
        ("upper", "u", None),
        ("a cat", None, None),
        ("first", None, None),
    ]
    assert json.loads(samples[1].metadata) == {"caption.txt": "c", "cls": 7, "meta.json": {"x": [1, None]}}
    assert json.loads(samples[2].metadata) == {"caption": "second"}
    shards_of(tmp_path)
    assert "2 files are skipped because of their suffixes: 1 .cr2, 1 .cls" in caplog.text


def test_files_that_are_gone_empty_or_share_a_key(tmp_path, monkeypatch):
    for name, content in (("a.jpg", b"1"), ("a.png", b"2"), ("b.jpg", b""), ("d.jpg", b"x" * 11), ("d.txt", b"123")):
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr("recap_fast.shards.folder.reader.MAX_IMAGE_BYTES", 10)
    monkeypatch.setattr("recap_fast.shards.folder.reader.MAX_TEXT_BYTES", 2)
    samples, reader = read_samples(unit_of(tmp_path, "a.jpg", "a.png", "b.jpg", "c.jpg", "d.jpg"))
    assert [s.status for s in samples] == ["ok", "ok", "empty_image", "missing_image", "too_large"]
    assert [s.key for s in samples[:2]] == ["a", "a.png"]
    assert [s.file_name for s in samples] == ["a.jpg", "a.png", "b.jpg", "c.jpg", "d.jpg"]
    assert samples[3].input_version is None
    assert [s.error for s in samples[3:]] == ["c.jpg is gone", "d.jpg has 11 bytes"]
    assert samples[4].warning == "d.txt has 3 bytes and is not read"
    assert reader.problem is None, "none of this is a problem of the shard"


@pytest.mark.parametrize(("make", "kind"), [(Path.mkdir, "a folder"), (os.mkfifo, "a pipe")])
def test_what_is_no_regular_file_is_a_row_and_not_waited_for(tmp_path, make, kind):
    make(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"1")
    samples, reader = read_samples(unit_of(tmp_path, "a.jpg", "b.jpg"))
    assert [s.status for s in samples] == ["not_an_image", "ok"]
    assert samples[0].error == f"a.jpg cannot be read: it is {kind}, not a file"
    assert reader.problem is None, "another run would find the same"


def test_remote_folders(memory):
    for name, content in webdataset_members(2):
        memory.pipe(f"/b/photos/{name}", content)
    (shard,) = shards_of("memory://b/photos")
    samples, reader = read_samples(shard)
    assert [(s.key, s.org_caption) for s in samples] == [("000000000", "alt 0"), ("000000001", "alt 1")]
    assert reader.identity == identity(shard)
    memory.pipe("/b/photos/000000001.jpg", b"another image")
    (again,) = shards_of("memory://b/photos")
    assert identity(again) != identity(shard)
    (_, changed), _ = read_samples(again)
    assert (changed.input_version, changed.image) == (again.files[1].version, b"another image")


def test_images_of_a_remote_folder_are_read_side_by_side_and_come_in_their_order(memory, monkeypatch):
    members = webdataset_members(NUM_THREADS + 3)
    for name, content in members:
        memory.pipe(f"/b/photos/{name}", content)
    (shard,) = shards_of("memory://b/photos")
    together = threading.Barrier(NUM_THREADS)
    read, first = reader_module.read_file, [f"memory://b/photos/{i:09d}.jpg" for i in range(NUM_THREADS)]
    monkeypatch.setattr(
        reader_module, "read_file", lambda url, limit: (url in first and together.wait(GUARD_S), read(url, limit))[1]
    )
    samples, _ = guarded(lambda: read_samples(shard))
    assert [s.image for s in samples] == [content for name, content in members if name.endswith("jpg")]
    assert [s.org_caption for s in samples] == [f"alt {i}" for i in range(NUM_THREADS + 3)]


def test_what_is_read_side_by_side_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(reader_module, "BATCH_BYTES", 100)
    sizes = [10, 60, 30, 1, 500, 40, 60, 0]
    files = [(i, ImageFile(f"{i}.jpg", f"{i}", f"{i}.jpg", f"{size}:v")) for i, size in enumerate(sizes)]
    files += [(i, ImageFile(f"{i}.jpg", f"{i}", f"{i}.jpg", None)) for i in range(8, 40)]
    batches = list(reader_module._batches(files))
    assert [file for batch in batches for file in batch] == files
    assert [len(batch) for batch in batches] == [3, 1, 1, 16, 16, 3]
