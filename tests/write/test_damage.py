"""Damaged stretches and outputs: the run goes on, and its rows are those of one that nothing happened to."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.damage import DAMAGES
from support.fake_runs import FakeRun, break_off, captions, expected_captions, write_shards
from support.guard import guarded

from recap_fast.atomic import sha256_of
from recap_fast.write import shard_writer
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.stretches import stretches
from recap_fast.write.verify import verify

SIZES = [20, 10]
BAD_ROWS = (1,)


def flip(path: Path, place: int) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def swap(paths: list[Path]) -> None:
    first, second = paths[0].read_bytes(), paths[1].read_bytes()
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Changes the rows, and the checksum in the name with them."""
    table = pq.ParquetFile(path).read()
    pq.write_table(change(table).replace_schema_metadata(pq.read_metadata(path).metadata), path)
    stem, digest, suffix = path.name.rsplit(".", 2)
    path.rename(path.with_name(f"{stem}.{sha256_of(path)[: len(digest)]}.{suffix}"))


def with_indices(path: Path, change: Callable[[list[int | None]], list[int | None]]) -> None:
    def changed(table: pa.Table) -> pa.Table:
        indices = pa.array(change(table["index"].to_pylist()), pa.int64())
        return table.set_column(table.schema.get_field_index("index"), "index", indices)

    rewrite(path, changed)


def stretch_files(output: Path, shard: str) -> list[Path]:
    return [output / stretch.name for stretch in stretches(OutputFolder.at(output), shard)]


def replace_with_another_shards(paths: list[Path]) -> None:
    """A stretch of the other shard takes the place of one, under its own name."""
    other = stretch_files(paths[0].parents[2], "00001")[0]
    other.rename(paths[0].parent / other.name)
    paths[0].unlink()


def as_text(table: pa.Table) -> pa.Table:
    return table.set_column(table.schema.get_field_index("index"), "index", table["index"].cast(pa.string()))


STRETCH_DAMAGES: dict[str, Callable[[list[Path]], object]] = {
    "cut": lambda paths: os.truncate(paths[0], paths[0].stat().st_size - 10),
    "half": lambda paths: os.truncate(paths[0], paths[0].stat().st_size // 2),
    "zeros": lambda paths: paths[0].write_bytes(bytes(paths[0].stat().st_size)),
    "longer": lambda paths: paths[0].write_bytes(paths[0].read_bytes() + b"x"),
    "a bit of a page": lambda paths: flip(paths[0], 200),
    "a bit of the footer": lambda paths: flip(paths[0], -60),
    "a bit of the magic": lambda paths: flip(paths[0], -1),
    "swapped": swap,
    "of another shard": replace_with_another_shards,
    "other columns": lambda paths: rewrite(paths[0], lambda table: table.drop_columns(["status"])),
    "other types": lambda paths: rewrite(paths[0], as_text),
    "no rows": lambda paths: rewrite(paths[0], lambda table: table.slice(0, 0)),
    "an index beyond": lambda paths: with_indices(paths[0], lambda indices: [*indices[:-1], 2**40]),
    "an index twice": lambda paths: with_indices(paths[0], lambda indices: [indices[0], indices[0], *indices[2:]]),
    "a null": lambda paths: with_indices(paths[0], lambda indices: [indices[0], None, *indices[2:]]),
    "turned around": lambda paths: with_indices(paths[0], lambda indices: indices[::-1]),
    **{name: lambda paths, name=name: DAMAGES[name](paths[0]) for name in ("empty", "folder", "pipe", "loop of links")},
    "gone": lambda paths: paths[0].unlink(),
    "all": lambda paths: [path.write_bytes(b"PAR1") for path in paths],
}


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Two shards with stretches of five rows each; neither was finished, their last five rows are lost."""
    monkeypatch.setattr(shard_writer, "STRETCH_ROWS", 5)
    write_shards(tmp_path / "in", SIZES, bad=BAD_ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer.ShardWriter, "finish", break_off)
        reports = guarded(FakeRun(tmp_path / "in", tmp_path / "out").run)
    assert [report.status for report in reports] == ["failed", "failed"]
    assert len(list(tmp_path.glob("out/partial/*/*.parquet"))) == 4
    return tmp_path


def finish_and_prove(folder: Path, **options: object) -> FakeRun:
    """Runs to the end: the rows are right, and nothing is left over."""
    run = FakeRun(folder / "in", folder / "out", **options)
    assert {report.status for report in guarded(run.run)} == {"complete"}
    assert captions(folder / "out") == expected_captions(folder / "in", SIZES, BAD_ROWS)
    assert verify(OutputFolder.at(folder / "out")).faults == []
    assert FakeRun(folder / "in", folder / "out").pending == []
    return run


@pytest.mark.parametrize("damage", STRETCH_DAMAGES)
def test_the_rows_of_a_damaged_stretch_are_done_again(begun, damage, caplog):
    STRETCH_DAMAGES[damage](stretch_files(begun / "out", "00000"))
    run = finish_and_prove(begun)
    assert run.engine.submitted <= (24 if damage == "all" else 20), "whole stretches are not done again"
    if damage not in ("gone", "loop of links", "folder", "pipe"):  # those are no files
        assert "cannot be used" in caplog.text
        assert "its images are captioned again" in caplog.text
    assert not [path for path in (begun / "out").glob("partial/**/*.parquet") if path.is_file()]


def test_all_is_well_without_damage(begun, caplog):
    assert finish_and_prove(begun).engine.submitted == 10
    assert caplog.text == ""
    assert not (begun / "out" / "partial").exists()


OUTPUT_DAMAGES: dict[str, Callable[[list[Path]], object]] = {
    **{name: STRETCH_DAMAGES[name] for name in ("cut", "zeros", "longer", "a bit of a page", "a bit of the footer")},
    **{name: STRETCH_DAMAGES[name] for name in ("swapped", "empty", "folder", "pipe", "loop of links", "gone")},
}


@pytest.mark.parametrize("damage", OUTPUT_DAMAGES)
def test_no_row_is_kept_of_a_damaged_output(begun, damage):
    finish_and_prove(begun)
    OUTPUT_DAMAGES[damage](sorted((begun / "out" / "data").iterdir()))
    run = finish_and_prove(begun, retry=("all",))
    assert run.engine.submitted == (28 if damage == "swapped" else 19)


def test_a_kill_between_the_output_and_its_record_costs_nothing(begun, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("recap_fast.write.ledger.write_record", break_off)
        with pytest.raises(RuntimeError, match="broken on purpose"):
            guarded(FakeRun(begun / "in", begun / "out").run)
    assert sorted(path.name for path in (begun / "out" / "data").iterdir()) == ["00000.parquet"]
    assert finish_and_prove(begun).engine.submitted == 5
