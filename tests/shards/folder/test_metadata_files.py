import errno
import json
import os
import pathlib
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.records import READ_AGAIN, Identity, ImageFile, Shard
from recap_fast.shards.folder.metadata_entries import CsvRows, JsonLines
from recap_fast.shards.folder.metadata_files import MetadataFiles, images_of, open_file
from recap_fast.shards.reader import open_shard


def find(folder, *paths):
    files, warnings = MetadataFiles(str(folder)), []
    return [files.record(path, warnings) for path in paths], warnings, files.problem


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_a_line_of_json_for_each_image(tmp_path):
    write(tmp_path / "metadata.jsonl", '{"file_name": "a.jpg", "text": "a cat"}\n\n{"file_name": "d/./b.jpg", "n": 1}')
    (a, b, c), warnings, problem = find(tmp_path, "a.jpg", "d/b.jpg", "c.jpg")
    assert (a, b, c) == ({"file_name": "a.jpg", "text": "a cat"}, {"file_name": "d/./b.jpg", "n": 1}, None)
    assert (warnings, problem) == ([], None)


def test_the_nearest_file_that_names_the_image(tmp_path):
    write(tmp_path / "metadata.csv", "file_name,label\nd/e/a.jpg,far\nd/e/b.jpg,far\nd/c.jpg,far\n")
    write(tmp_path / "d/e/metadata.jsonl", '{"file_name": "a.jpg", "label": "near"}\n')
    found, _, _ = find(tmp_path, "d/e/a.jpg", "d/e/b.jpg", "d/c.jpg", "d/x.jpg")
    assert [entry and entry["label"] for entry in found] == ["near", "far", "far", None]


def test_rows_of_csv(tmp_path):
    text = '\ufefffile_name,text,n\r\n"a, b.jpg","two\nlines, ""quoted""",\r\n\r\nc.jpg,t,5,6\nd.jpg,caf\u00e9,7\n'
    write(tmp_path / "metadata.csv", text)
    found, _, _ = find(tmp_path, "a, b.jpg", "c.jpg", "d.jpg")
    assert found == [
        {"file_name": "a, b.jpg", "text": 'two\nlines, "quoted"', "n": None},
        None,
        {"file_name": "d.jpg", "text": "caf\u00e9", "n": "7"},
    ]
    rows = CsvRows(b"a,b\n" + b"x" * (17 << 20) + b",1\n2,3\n" + b"y" * 200_000 + b",\n")
    assert [entry for _, entry in rows] == [{"a": "2", "b": "3"}, {"a": "y" * 200_000, "b": None}]
    assert rows.bad == ["row 2"]


def test_rows_of_parquet(tmp_path):
    columns = {"file_name": ["a.jpg", None], "when": pa.array([1, 2], pa.timestamp("ns")), "box": [[1.5], []]}
    pq.write_table(pa.table(columns), tmp_path / "metadata.parquet")
    (a, b), _, _ = find(tmp_path, "a.jpg", "b.jpg")
    assert (a["box"], str(a["when"])[:10], b) == ([1.5], "1970-01-01", None)


def test_one_text_in_every_row_of_a_parquet_file_is_held_once(tmp_path):
    rows = 4000
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * (1 << 20)])
    table = pa.table({"file_name": [f"{i}.jpg" for i in range(rows)], "text": text})
    pq.write_table(table, tmp_path / "metadata.parquet", write_statistics=False)
    before = pa.total_allocated_bytes()
    (found,), _, _ = find(tmp_path, "77.jpg")
    assert len(found["text"]) == 1 << 20
    assert pa.total_allocated_bytes() - before < 100 << 20


def test_entries_that_cannot_be_read_cost_themselves(tmp_path, caplog):
    lines = [
        b'{"file_name": "a.jpg"}', b"{broken", b"[1]", b'{"text": "no name"}',
        b'{"file_name": "b.jpg", "x": "caf\xe9"}', b'{"file_name": 7}', b"\xff\xfe",
        b'{"file_name": "c.jpg", "x": NaN}', b'{"file_name": "./a.jpg", "x": 2}',
    ]  # fmt: skip
    write(tmp_path / "metadata.jsonl", b"\n".join(lines))
    (a, b, c), warnings, problem = find(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    assert (a, b["x"], c["x"]) == ({"file_name": "a.jpg"}, "caf\\xe9", None)
    assert warnings == ["the line in metadata.jsonl is not UTF-8 at byte 32: such bytes are written as \\xNN"]
    assert "entries that cannot be read: 3 (line 2, line 3, line 7)" in caplog.text
    assert "entries without a file_name: 2" in caplog.text
    assert "entries of an image that an earlier one names: 1" in caplog.text
    assert problem is None


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_with_a_byte_order_mark(tmp_path, encoding):
    write(
        tmp_path / "metadata.jsonl", '{"file_name": "a.jpg", "text": "\u00e9"}\n{"file_name": "b.jpg"}'.encode(encoding)
    )
    assert [entry["file_name"] for entry in find(tmp_path, "a.jpg", "b.jpg")[0]] == ["a.jpg", "b.jpg"]


def test_names_of_images():
    entry = {
        "file_name": "a//b.jpg",
        "input_file_name": "c\\d.jpg",
        "file_names": ["e.jpg", 5],
        "name": "f.jpg",
        "n": 1,
    }
    assert images_of(entry) == ["a/b.jpg", "c/d.jpg", "e.jpg"]
    assert images_of({"file_name": "e\u0301.jpg"}) == ["\u00e9.jpg"]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
@given(content=st.binary(max_size=300))
def test_any_bytes(tmp_path_factory, name, content):
    folder = tmp_path_factory.mktemp("folder")
    (folder / name).write_bytes(content)
    found, _, problem = find(folder, "a.jpg")
    assert (found, problem) == ([None], None)


@pytest.mark.parametrize("kind", [JsonLines, CsvRows])
@given(texts=st.lists(st.text(max_size=9), max_size=5))
def test_every_entry_is_found_by_its_number(kind, texts):
    lines = [json.dumps({"file_name": text}) for text in texts]
    quoted = ["file_name,n", *('"' + text.replace('"', '""') + '",1' for text in texts)]
    content = "\n".join(lines if kind is JsonLines else quoted).encode("utf-8", "replace")
    entries = kind(content)
    listed = [(number, dict(entry)) for number, entry in entries]
    assert [entries.entry(number, []) for number, _ in listed] == [entry for _, entry in listed]
    assert len(listed) == len(texts)
    assert entries.bad == []


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("recap_fast.shards.folder.metadata_files.MAX_METADATA_BYTES", 10)
    write(tmp_path / "metadata.jsonl", '{"file_name": "a.jpg"}')
    assert find(tmp_path, "a.jpg") == ([None], [], None)
    assert "metadata.jsonl has 22 bytes and is not read" in caplog.text


def test_what_cannot_be_read_is_read_again(tmp_path, monkeypatch):
    write(tmp_path / "metadata.jsonl", '{"file_name": "a.jpg"}')

    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pathlib.Path, "read_bytes", fail)
    found, warnings, problem = find(tmp_path, "a.jpg", "b.jpg")
    assert found == [None, None]
    assert problem == f"{tmp_path}/metadata.jsonl cannot be read: [Errno 5] Input/output error"
    assert warnings == [f"{problem} {READ_AGAIN}"] * 2


def test_warnings_and_problems_show_no_secrets(monkeypatch, caplog):
    url = "ftp://user:password@host/folder"
    failing = Mock(side_effect=ConnectionError(f"no answer from {url}/metadata.jsonl?sig=secret"))
    monkeypatch.setattr("recap_fast.shards.folder.metadata_files.remote_identity", failing)
    _, warnings, problem = find(url, "a.jpg")
    with monkeypatch.context() as patched:
        patched.setattr("recap_fast.shards.folder.metadata_files.read_file", lambda *_: (b"{}\nno json\n", None))
        open_file(f"{url}/metadata.jsonl", Identity(1, "v"))
    open_file(f"{url}/metadata.csv", Identity(1 << 40, "v"))
    shown = [*warnings, problem, *caplog.messages]
    assert len(shown) == 5
    assert all("ftp://host/folder/metadata" in text for text in shown)
    assert not [text for text in shown if "password" in text or "secret" in text]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metadata.csv")
    assert "it is not a regular file" in find(tmp_path, "a.jpg")[2]


def images(*paths):
    return tuple(ImageFile(path, path, path.rpartition(".")[0], None) for path in paths)


def test_a_folder_with_a_metadata_file_and_jsons(tmp_path):
    write(
        tmp_path / "metadata.jsonl",
        '{"file_name": "a.jpg", "text": "line", "n": 1}\n{"file_name": "b.jpg", "uid": "u"}',
    )
    write(tmp_path / "a.jpg", b"1")
    write(tmp_path / "b.jpg", b"2")
    write(tmp_path / "a.json", '{"caption": "json", "n": 2}')
    with open_shard(Shard("s", str(tmp_path), "folder", images("a.jpg", "b.jpg"))) as reader:
        a, b = reader.samples(np.empty(0, np.int64))
    assert (a.org_caption, json.loads(a.metadata)) == (
        "json",
        {"caption": "json", "n": 2, "file_name": "a.jpg", "text": "line"},
    )
    assert (b.uid, b.org_caption, json.loads(b.metadata)) == ("u", None, {"file_name": "b.jpg", "uid": "u"})


def test_a_remote_folder(memory):
    memory.pipe("memory://x/d/a.jpg", b"1")
    memory.pipe("memory://x/metadata.jsonl", b'{"file_name": "d/a.jpg", "text": "a cat"}')
    with open_shard(Shard("s", "memory://x", "folder", images("d/a.jpg"))) as reader:
        (sample,) = reader.samples(np.empty(0, np.int64))
    assert (sample.image, sample.org_caption) == (b"1", "a cat")
