"""JSON Lines and CSV, read back by the readers that people use."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from support.exports import NASTY, below, make_output, picture, run_export, write_scores
from support.shard_files import webdataset_members, write_tar

from recap_fast.errors import ConfigError, RecapError
from recap_fast.export import tables
from recap_fast.write.output_folder import OutputFolder

CAPTIONS = [NASTY, "", None, "x" * 100_000, "null", "1,5", " a ", "\u4e00\x00b"]
FLAGS = [["loop", "stock"], [], ['a, "b"'], [], [], [], [], []]


@pytest.fixture
def made(tmp_path: Path) -> OutputFolder:
    """Two shards, the first of eight samples with nasty captions."""
    write_tar(tmp_path / "in/a/b.tar", webdataset_members(8))
    write_tar(tmp_path / "in/c.tar", webdataset_members(3, first=8))

    def change(row: dict[str, Any]) -> None:
        if row["shard"] == "a/b":
            row |= {"re_caption": CAPTIONS[row["index"]], "flags": FLAGS[row["index"]], "url": None}

    return make_output(tmp_path / "out", tmp_path / "in", change=change)


EXPECTED = [caption or None for caption in CAPTIONS]


def test_jsonl_has_the_rows_of_each_shard_in_order(made: OutputFolder, tmp_path: Path) -> None:
    result = run_export(made, "jsonl", tmp_path / "to")
    assert sorted(below(tmp_path / "to")) == ["a/b.jsonl", "c.jsonl"]
    rows = [json.loads(line) for line in below(tmp_path / "to")["a/b.jsonl"].decode().split("\n")[:-1]]
    assert [row["re_caption"] for row in rows] == EXPECTED
    assert list(rows[0]) == ["key", "file_name", "url", "re_caption", "org_caption", "flags"]
    assert rows[1] == {
        "key": "000000001",
        "file_name": "000000001.jpg",
        "url": None,
        "re_caption": None,
        "org_caption": "alt 1",
        "flags": [],
    }
    assert result.counts == {"samples": 11, "captions": 9}
    assert result.verified == "every file has all of its rows"


def test_jsonl_is_read_by_datasets_pandas_and_polars(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "jsonl", tmp_path / "to")
    path = str(tmp_path / "to/a/b.jsonl")
    loaded = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["re_caption"][:] == EXPECTED
    assert loaded["flags"][:] == FLAGS
    assert pl.read_ndjson(path)["re_caption"].to_list() == EXPECTED
    assert pd.read_json(path, lines=True, dtype=False)["re_caption"].tolist()[3:] == EXPECTED[3:]


def test_csv_is_as_rfc_4180_says(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "csv", tmp_path / "to")
    text = below(tmp_path / "to")["a/b.csv"].decode()
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert header == ["key", "file_name", "url", "re_caption", "org_caption", "flags"]
    assert [row[3] for row in rows] == [caption or "" for caption in CAPTIONS]
    assert [json.loads(row[5]) for row in rows] == FLAGS
    assert text.startswith("key,file_name,url,re_caption,org_caption,flags\r\n")
    assert text.endswith("\r\n")


def test_csv_is_read_by_datasets_pandas_and_polars(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "csv", tmp_path / "to")
    path = str(tmp_path / "to/a/b.csv")
    read = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert read["re_caption"].tolist() == [caption or "" for caption in CAPTIONS]
    assert pl.read_csv(path, infer_schema=False)["re_caption"].to_list() == EXPECTED
    other = str(tmp_path / "to/c.csv")
    loaded = datasets.load_dataset("csv", data_files=other, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["re_caption"][:] == [f"caption {i} of c" for i in range(3)]


def test_the_columns_that_were_asked_for_and_the_captions(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "jsonl", tmp_path / "to", columns="uid,index,org_caption")
    row = json.loads(below(tmp_path / "to")["c.jsonl"].splitlines()[2])
    assert row == {"uid": "u10", "index": 2, "org_caption": "alt 10", "re_caption": "caption 2 of c"}
    assert list(row) == ["uid", "index", "org_caption", "re_caption"]


def test_scores_are_there_where_there_are_any_and_nan_is_null(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "csv", tmp_path / "to")
    before = below(tmp_path / "to")
    write_scores(made, "c", [0.25, float("nan")])
    run_export(made, "jsonl", tmp_path / "jsonl")
    rows = [json.loads(line) for line in below(tmp_path / "jsonl")["c.jsonl"].splitlines()]
    assert [row["re_clip_score"] for row in rows] == [0.25, None, None]
    assert rows[0]["org_clip_score"] == 0.125
    assert run_export(made, "csv", tmp_path / "to").already == 0  # scores are columns now
    assert below(tmp_path / "to") != before


def test_a_drawn_caption_has_a_column_of_its_own(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "jsonl", tmp_path / "all", mix_p=1.0)
    run_export(made, "csv", tmp_path / "none", mix_p=0.0)
    row = json.loads(below(tmp_path / "all")["c.jsonl"].splitlines()[0])
    assert (row["re_caption"], row["org_caption"], row["caption"]) == ("caption 0 of c", "alt 8", "alt 8")
    (header, first, *_) = csv.reader(io.StringIO(below(tmp_path / "none")["c.csv"].decode()))
    assert dict(zip(header, first, strict=True))["caption"] == "caption 0 of c"


def test_skipped_rows_are_not_written(made: OutputFolder, tmp_path: Path) -> None:
    result = run_export(made, "jsonl", tmp_path / "to", skip="failed")
    rows = [json.loads(line) for line in below(tmp_path / "to")["a/b.jsonl"].decode().split("\n")[:-1]]
    assert [row["re_caption"] for row in rows] == [caption for caption in CAPTIONS if caption]
    assert result.counts["skipped: failed"] == 2


def test_a_second_export_does_nothing_and_a_changed_shard_is_written_anew(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "jsonl", tmp_path / "to")
    paths = [tmp_path / "to/a/b.jsonl", tmp_path / "to/c.jsonl"]
    before = [path.stat().st_mtime_ns for path in paths]
    assert run_export(made, "jsonl", tmp_path / "to").already == 2
    assert [path.stat().st_mtime_ns for path in paths] == before
    paths[1].unlink()
    assert run_export(made, "jsonl", tmp_path / "to").shards == 1
    assert paths[0].stat().st_mtime_ns == before[0]
    assert paths[1].exists()


def test_a_file_that_we_did_not_write_stays(made: OutputFolder, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to/c.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"c\.csv is there already, and this export did not write it"):
        run_export(made, "csv", tmp_path / "to")
    assert (tmp_path / "to/c.csv").read_text() == "mine"
    run_export(made, "csv", tmp_path / "to", overwrite=True)
    assert (tmp_path / "to/c.csv").read_text().startswith("key,")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_file_that_lacks_rows_is_no_export(
    made: OutputFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write, count = tables._FORMATS[kind]

    def cut(path: Path, rows: Any, columns: Any) -> None:
        write(path, rows, columns)
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))

    monkeypatch.setitem(tables._FORMATS, kind, (cut, count))
    with pytest.raises(RecapError, match=rf"c\.{kind} has 2 rows, not 3"):
        run_export(made, kind, tmp_path / "to", shards=[str(tmp_path / "in/c.tar")])
    assert below(tmp_path / "to") == {}
    assert run_export(made, kind, tmp_path / "to", verify=False).verified is None


def test_lines_of_a_folder_together_are_the_metadata_of_an_imagefolder(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(3):
        (photos / "sub").mkdir(parents=True, exist_ok=True)
        (photos / f"sub/{number}.png").write_bytes(picture(number))
    output = make_output(tmp_path / "out", photos)
    run_export(output, "jsonl", tmp_path / "to", columns="file_name")
    (photos / "metadata.jsonl").write_bytes(b"".join(below(tmp_path / "to").values()))
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(photos), split="train", cache_dir=cache)
    assert loaded["re_caption"][:] == [row["re_caption"] for row in pq.read_table(tmp_path / "out/data").to_pylist()]
    assert loaded[2]["image"].size == (20, 16)
