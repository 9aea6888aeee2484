"""What users read the output with: each opens the folder as it stands, a run cut short included."""

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas
import polars
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from support import runs

from recap_fast.machine import cpu_model, find_commit
from recap_fast.records import Shard
from recap_fast.shards.identity import identity
from recap_fast.write.schema import SCHEMA

NUM_ROWS = 36


@pytest.fixture(scope="module")
def output(tmp_path_factory, server, tiny_engine) -> Path:
    """Shards in folders of two depths; the last one was cut short, so there is a stretch of it in partial/."""
    folder = tmp_path_factory.mktemp("output")
    runs.write_pictures(folder / "in", 2, 12, bad=[5])
    runs.write_pictures(folder / "in" / "deeper" / "still", 2, 12)
    arguments = runs.run_arguments(tiny_engine, folder / "in", folder / "out", "--max-new-tokens", 4)
    command = server.run(*arguments, "--shards", folder / "in" / "deeper" / "still", "--limit", 39)
    assert command.code == 0, command.stderr
    assert list((folder / "out" / "partial").rglob("*.parquet"))
    assert len(runs.read_rows(folder / "out")) == NUM_ROWS
    return folder / "out"


def load(tmp_path, output, *configurations, column="re_caption"):
    """What `load_dataset` has: the columns, and one of them by shard and index; one pair for each configuration."""
    code = (
        "import datasets, json, sys\n"
        "for name in sys.argv[2:]:\n"
        "    rows = datasets.load_dataset(sys.argv[1], name, split='train')\n"
        f"    columns = [rows[column] for column in ('shard', 'index', '{column}')]\n"
        "    print(json.dumps([rows.column_names, *columns], default=list))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, output, *configurations]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        columns, shards, indices, captions = json.loads(line)
        rows = dict(zip(zip(shards, indices, strict=True), captions, strict=True))
        assert len(rows) == len(indices)
        yield columns, rows


def test_datasets_loads_what_is_finished_and_what_is_not(output, tmp_path):
    (columns, finished), (partial_columns, partial) = load(tmp_path, output, "default", "partial")
    assert columns == partial_columns == SCHEMA.names
    assert finished == {(row["shard"], row["index"]): row["re_caption"] for row in runs.read_rows(output)}
    assert len(finished) == NUM_ROWS
    assert {shard for shard, _ in partial} == {"deeper/still/00001"}
    assert len(partial) == pq.read_table(output / "partial").num_rows > 0


def test_before_a_shard_is_finished_its_rows_are_the_default(tmp_path, server, tiny_engine):
    runs.write_pictures(tmp_path / "in", 1, 8)
    out = tmp_path / "out"
    command = server.run(*runs.run_arguments(tiny_engine, tmp_path / "in", out, "--limit", 3, "--max-new-tokens", 2))
    assert command.code == 0, command.stderr
    ((_, rows),) = load(tmp_path, out, "default")
    assert sorted(rows) == [("00000", 0), ("00000", 1), ("00000", 2)]
    assert duckdb.sql(f"SELECT count(*) FROM '{out}/partial/**/*.parquet'").fetchall() == [(3,)]


def test_every_reader_has_flags_as_lists(output, tmp_path):
    expected = {(row["shard"], row["index"]): row["flags"] for row in runs.read_rows(output)}
    assert {*map(tuple, expected.values())} > {()}, "rows with flags, and one without"
    query, files = "SELECT shard, index, flags FROM", f"{output}/data/**/*.parquet"
    tables = {
        "duckdb": duckdb.sql(f"{query} '{files}'").fetchall(),
        "pandas": pandas.read_parquet(output / "data")[["shard", "index", "flags"]].itertuples(index=False),
        "polars": polars.read_parquet(files).select("shard", "index", "flags").rows(),
    }
    for name, rows in tables.items():
        assert {(shard, index): list(flags) for shard, index, flags in rows} == expected, name
    (loaded,) = load(tmp_path, output, "default", column="flags")
    assert loaded[1] == expected


def test_duckdb_reads_it(output):
    query = f"SELECT count(*), count(DISTINCT (shard, index)), count(re_caption) FROM '{output}/data/**/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(NUM_ROWS, NUM_ROWS, NUM_ROWS - 2)]
    assert [row[0] for row in duckdb.sql(f"DESCRIBE FROM '{output}/data/*.parquet'").fetchall()] == SCHEMA.names


def test_pyarrow_reads_it(output):
    table = pq.read_table(output / "data")
    assert table.num_rows == NUM_ROWS
    assert table.schema.equals(SCHEMA)
    assert pyarrow.dataset.dataset(output / "data").count_rows() == NUM_ROWS


def test_the_files_are_compressed_have_statistics_and_say_what_they_were_made_from(output):
    for path in (output / "data").rglob("*.parquet"):
        file = pq.ParquetFile(path)
        group = file.metadata.row_group(0)
        by_name = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        assert {column.compression for column in by_name.values()} == {"ZSTD"}
        assert (by_name["index"].statistics.min, by_name["index"].statistics.max) == (0, 7)
        name = path.relative_to(output / "data").with_suffix("")
        assert file.metadata.metadata[b"recap_fast.shard"].decode() == str(name)
        version = identity(Shard("", f"{output.parent}/in/{name}.tar", "tar")).text
        assert set(file.read(["input_version"])["input_version"].to_pylist()) == {version}
        (made_with,) = json.loads(file.metadata.metadata[b"recap_fast.made_with"])
        assert made_with == {
            **json.loads((output / "run.json").read_text())["fingerprint"],
            "machine": f"{cpu_model()}, 1 thread",
            "commit": find_commit(),
        }
        assert {"engine", "engine.weights.safetensors", "prompt", "template", "precision", "decoder", "versions"} < {
            *made_with
        }


def test_outputs_mirror_the_inputs_and_nothing_else_lies_there(output):
    names = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    stretches = {name for name in names if name.startswith("partial/deeper/still/00001/")}
    assert names - stretches == {
        *("README.md", "run.json", "local.json", "metrics.jsonl", "data/00000.parquet", "data/00001.parquet"),
        *("manifests/00000.json", "manifests/00001.json"),
        *("data/deeper/still/00000.parquet", "manifests/deeper/still/00000.json"),
    }
    assert stretches


def test_paths_of_the_machine_stand_in_the_local_file_alone(output, tmp_path, server, tiny_engine):
    folder = tmp_path / "secret-place"
    runs.write_pictures(folder / "in", 1, 3, bad=[1])
    (folder / "in/photos").mkdir()
    (folder / "in/photos/cat.jpg").write_bytes(b"no picture")
    (folder / "in/broken.tar").write_bytes(b"no tar" * 100)
    (folder / "in/broken.parquet").write_bytes(b"PAR1 no Parquet")
    arguments = runs.run_arguments(tiny_engine, folder / "in", folder / "out", "--max-new-tokens", 2)
    command = server.run(
        *arguments, "--shards", folder / "in/*.parquet", "--shards", folder / "in/photos", "--limit", 4
    )
    assert command.code == 1, command.stderr
    files = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} >= {"out", "data", "manifests"}
    found = [path.name for path in files if b"secret-place" in _content(path)]
    assert found == ["local.json"]


def _content(path: Path) -> bytes:
    """The bytes of a file; of Parquet, the rows and the metadata as they are read."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    file = pq.ParquetFile(path)
    return repr((file.read().to_pylist(), file.metadata.metadata)).encode()


def test_a_row_says_all_that_came_with_its_sample(output):
    row = runs.read_rows(output)[0]
    assert (row["url"], row["uid"], row["key"]) == ("http://x/000000000", "u000000000", "000000000")
    assert (row["org_caption"], row["org_length"]) == ("alt text 0", 3)
    assert (row["width"], row["height"], row["finish_reason"], row["num_tokens"]) == (20, 16, "length", 4)
    assert json.loads(row["metadata"])["caption"] == "alt text 0"
    assert row["re_length"] == len(row["re_caption"].split())
