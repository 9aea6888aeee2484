"""Parquet with images: what the Hub's viewer and `load_dataset` make of it, and whether it is what was captioned."""

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from support.exports import MARKS, NASTY, below, make_output, picture, run_export, write_scores
from support.shard_files import write_tar

from recap_fast.errors import ConfigError, RecapError
from recap_fast.export import job, parquet, parquet_writer
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.schema import SCHEMA

BAD = b"this is no image"
COLUMNS = [name for name in SCHEMA.names if name != "captions"]
"""Those of a run that makes one caption an image."""


def members(num: int, first: int = 0, bad: tuple[int, ...] = ()) -> list[tuple[str, bytes]]:
    found = []
    for i in range(first, first + num):
        found.append((f"{i:09d}.png", BAD if i in bad else picture(i)))
        found.append((f"{i:09d}.json", json.dumps({"caption": f"alt {i}", "url": f"http://x/{i}"}).encode()))
    return found


def change(row: dict[str, Any]) -> None:
    if row["shard"] == "b" and row["index"] == 1:
        row |= {"status": "corrupt", "re_caption": None, "error": "It is no image."}
    if row["index"] == 2:
        row |= {"re_caption": NASTY, "flags": ["loop", "stock"]}


@pytest.fixture
def made(tmp_path: Path) -> OutputFolder:
    """Two tars of nine and three pictures, one of them damaged."""
    write_tar(tmp_path / "in/a.tar", members(9))
    write_tar(tmp_path / "in/b.tar", members(3, first=9, bad=(10,)))
    return make_output(tmp_path / "out", tmp_path / "in", change=change)


def read(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.rglob("*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()]


def load(folder: Path, cache: Path) -> datasets.Dataset:
    files = sorted(str(path) for path in folder.rglob("*.parquet"))
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(cache))


def test_files_are_named_as_the_hub_names_them_and_hold_the_rows_in_order(made: OutputFolder, tmp_path: Path) -> None:
    result = run_export(made, "parquet", tmp_path / "to")
    assert sorted(below(tmp_path / "to")) == [f"data/train-0000{i}-of-00002.parquet" for i in range(2)]
    found = read(tmp_path / "to")
    expected = read(tmp_path / "out/data")
    assert [{name: row[name] for name in COLUMNS} for row in found] == [
        {name: row[name] for name in COLUMNS} for row in expected
    ]
    assert list(found[0]) == ["image", *COLUMNS]
    assert found[0]["image"] == {"bytes": picture(0), "path": "000000000.png"}
    assert result.counts == {"samples": 12, "captions": 11, "flag: loop": 2, "flag: stock": 2}
    assert result.verified == "every file has all of its rows, and every image byte for byte"


def test_load_dataset_shows_pictures(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "parquet", tmp_path / "to")
    loaded = load(tmp_path / "to", tmp_path / "cache")
    assert loaded.features["image"] == datasets.Image()
    assert loaded.features["flags"] == datasets.List(datasets.Value("string"))
    assert loaded[3]["image"].size == (20, 16)
    assert loaded[2]["re_caption"] == NASTY
    assert loaded[10]["image"] is None  # its bytes cannot be decoded, and readers would fail on them
    assert loaded[10]["status"] == "corrupt"
    assert [row["key"] for row in loaded] == [f"{i:09d}" for i in range(12)]


def test_pandas_and_polars_read_it(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "parquet", tmp_path / "to")
    path = tmp_path / "to/data/train-00000-of-00002.parquet"
    assert pd.read_parquet(path)["image"][4]["bytes"] == picture(4)
    assert pl.read_parquet(path)["image"].struct.field("bytes")[8] == picture(8)


def test_without_images_it_is_the_captions_with_their_scores(made: OutputFolder, tmp_path: Path) -> None:
    write_scores(made, "a", [0.5] * 9)
    result = run_export(made, "parquet", tmp_path / "to", images=False)
    found = read(tmp_path / "to")
    assert list(found[0]) == COLUMNS
    assert [row["re_clip_score"] for row in found] == [0.5] * 9 + [None] * 3
    assert result.verified == "every file has all of its rows"
    assert load(tmp_path / "to", tmp_path / "cache").features["re_clip_score"] == datasets.Value("float64")


def test_large_shards_have_several_files_and_row_groups_are_small(
    made: OutputFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (tmp_path / "in/a.tar").stat().st_size
    monkeypatch.setattr(parquet, "FILE_BYTES", size // 4 + 1)
    monkeypatch.setattr(parquet_writer, "GROUP_ROWS", 2)
    run_export(made, "parquet", tmp_path / "to")
    files = sorted((tmp_path / "to/data").iterdir())
    assert [path.name for path in files] == [f"train-0000{i}-of-00006.parquet" for i in range(6)]
    metadata = [pq.ParquetFile(path).metadata for path in files]
    assert [each.num_rows for each in metadata] == [3, 2, 2, 2, 2, 1]
    assert all(each.row_group(i).num_rows <= 2 for each in metadata for i in range(each.num_row_groups))
    assert [row["index"] for row in read(tmp_path / "to")] == [*range(9), *range(3)]


def test_a_row_group_has_no_more_bytes_than_the_viewer_reads(
    made: OutputFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_writer, "GROUP_BYTES", 3 * len(picture(0)))
    run_export(made, "parquet", tmp_path / "to")
    metadata = pq.ParquetFile(tmp_path / "to/data/train-00000-of-00002.parquet").metadata
    assert metadata.num_row_groups > 3
    assert max(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)) <= 2


def test_pages_have_an_index_images_no_statistics_and_the_file_says_what_it_was_made_with(
    made: OutputFolder, tmp_path: Path
) -> None:
    run_export(made, "parquet", tmp_path / "to")
    file = pq.ParquetFile(tmp_path / "to/data/train-00000-of-00002.parquet")
    columns = {
        (column := file.metadata.row_group(0).column(i)).path_in_schema: column
        for i in range(file.metadata.num_columns)
    }
    assert columns["image.bytes"].statistics is None
    assert columns["image.bytes"].compression == "UNCOMPRESSED"
    assert columns["re_caption"].compression == "ZSTD"
    assert columns["index"].has_offset_index
    assert json.loads(file.schema_arrow.metadata[b"recap_fast.made_with"]) == [MARKS]


def test_skipped_rows_are_left_out_and_a_drawn_caption_has_a_column(made: OutputFolder, tmp_path: Path) -> None:
    result = run_export(made, "parquet", tmp_path / "to", skip="failed", mix_p=1.0, columns="key")
    found = read(tmp_path / "to")
    assert list(found[0]) == ["image", "key", "re_caption", "org_caption", "caption"]
    assert [row["caption"] for row in found] == [f"alt {i}" for i in range(12) if i != 10]
    assert result.counts["skipped: failed"] == 1


def test_a_shard_without_rows_has_no_file(tmp_path: Path) -> None:
    write_tar(tmp_path / "in/a.tar", members(2))
    write_tar(tmp_path / "in/b.tar", [])
    output = make_output(tmp_path / "out", tmp_path / "in")
    run_export(output, "parquet", tmp_path / "to")
    assert sorted(below(tmp_path / "to")) == ["data/train-00000-of-00001.parquet"]


def test_it_goes_on_where_it_stopped(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "parquet", tmp_path / "to")
    first, second = sorted((tmp_path / "to/data").iterdir())
    before = first.stat().st_mtime_ns
    second.unlink()
    result = run_export(made, "parquet", tmp_path / "to")
    assert (result.shards, result.already) == (1, 1)
    assert first.stat().st_mtime_ns == before
    assert len(read(tmp_path / "to")) == 12


def test_with_more_shards_the_files_have_other_names_and_the_old_ones_go(tmp_path: Path) -> None:
    write_tar(tmp_path / "in/a.tar", members(2))
    run_export(make_output(tmp_path / "out", tmp_path / "in"), "parquet", tmp_path / "to")
    write_tar(tmp_path / "in/b.tar", members(3, first=2))
    run_export(make_output(tmp_path / "out", tmp_path / "in"), "parquet", tmp_path / "to")
    assert sorted(below(tmp_path / "to")) == [f"data/train-0000{i}-of-00002.parquet" for i in range(2)]
    assert [row["key"] for row in read(tmp_path / "to")] == [f"{i:09d}" for i in range(5)]


def test_another_image_than_was_captioned_is_told_of_and_the_other_shards_are_exported(
    made: OutputFolder, tmp_path: Path
) -> None:
    others = members(9)
    others[4] = (others[4][0], picture(99))
    write_tar(tmp_path / "in/a.tar", others)
    result = run_export(made, "parquet", tmp_path / "to")
    assert [problem.partition("has")[2] for problem in result.problems] == [
        " another image at index 2 than the one that was captioned"
    ]
    assert result.exit_code == 1
    assert sorted(below(tmp_path / "to")) == ["data/train-00001-of-00002.parquet"]


@pytest.mark.parametrize("harm", ["bytes", "row"])
def test_what_does_not_read_back_is_no_export(
    made: OutputFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """The disk loses a bit, or a row group."""
    verify = parquet_writer.ParquetFile.verify

    def damage(file: parquet_writer.ParquetFile) -> None:
        table = pq.read_table(file._path)
        if harm == "row":
            pq.write_table(table.slice(1), file._path)
        else:
            file._path.write_bytes(file._path.read_bytes().replace(picture(1)[20:40], b"\0" * 20))
        verify(file)

    monkeypatch.setattr(parquet_writer.ParquetFile, "verify", damage)
    with pytest.raises(RecapError, match="other images than were written" if harm == "bytes" else "has 8 rows"):
        run_export(made, "parquet", tmp_path / "to")
    assert below(tmp_path / "to") == {}


def test_a_file_that_we_did_not_write_stays(made: OutputFolder, tmp_path: Path) -> None:
    name = "data/train-00001-of-00002.parquet"
    (tmp_path / "to/data").mkdir(parents=True)
    (tmp_path / "to" / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match="is there already, and this export did not write it"):
        run_export(made, "parquet", tmp_path / "to")
    assert (tmp_path / "to" / name).read_bytes() == b"mine"


def test_every_image_is_the_one_that_the_row_names(made: OutputFolder, tmp_path: Path) -> None:
    run_export(made, "parquet", tmp_path / "to")
    rows = [row for row in read(tmp_path / "to") if row["image"] is not None]
    assert [hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in rows] == [row["sha256"] for row in rows]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "txt"])
def test_several_processes_write_the_same(
    made: OutputFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    one = run_export(made, kind, tmp_path / "one")
    monkeypatch.setattr(job, "FEW_ROWS", 1)
    two = run_export(made, kind, tmp_path / "two", workers=2)
    assert below(tmp_path / "two") == below(tmp_path / "one")
    assert (two.shards, two.counts) == (one.shards, one.counts) != (0, {})
