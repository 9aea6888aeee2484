"""What users read an output in a bucket with: each takes `data/**/*.parquet` as it lies there."""

import json
import os
import subprocess
import sys

import duckdb
import polars
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.arrow import ArrowFSWrapper
from support import runs
from support.cloud_runs import CloudOutput, succeed
from support.s3_server import KEY, SECRET

NUM_ROWS = 24


@pytest.fixture
def output(s3_bucket, s3_server, server, tiny_engine, tmp_path):
    """Shards in folders of two depths."""
    runs.write_pictures(tmp_path / "in", 1, 12, bad=[5])
    runs.write_pictures(tmp_path / "in" / "deeper" / "still", 1, 12)
    output = CloudOutput(f"{s3_bucket}/captions", server, s3_server, tmp_path)
    arguments = runs.run_arguments(tiny_engine, tmp_path / "in", output.address, "--max-new-tokens", 4)
    succeed(server.run(*arguments, "--shards", tmp_path / "in" / "deeper" / "still"))
    return output


@pytest.fixture
def expected(output):
    """Captions by shard and index."""
    found = {(row["shard"], row["index"]): row["re_caption"] for row in output.rows()}
    assert len(found) == NUM_ROWS
    return found


def by_place(rows):
    found = {(row["shard"], row["index"]): row["re_caption"] for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture
def arrow_files(s3_server):
    """pyarrow's own client of S3."""
    options = {"access_key": KEY, "secret_key": SECRET, "region": "us-east-1", "scheme": "http"}
    return pyarrow.fs.S3FileSystem(endpoint_override=s3_server.endpoint.removeprefix("http://"), **options)


def test_pyarrow(output, expected, arrow_files):
    table = pq.read_table(f"{output.address}/data".removeprefix("s3://"), filesystem=arrow_files)
    assert by_place(table.to_pylist()) == expected


def test_polars(output, expected, s3_server):
    options = {"aws_endpoint_url": s3_server.endpoint, "aws_region": "us-east-1", "aws_allow_http": "true"}
    options |= {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
    frame = polars.scan_parquet(f"{output.address}/data/**/*.parquet", storage_options=options).collect()
    assert by_place(frame.to_dicts()) == expected


def test_duckdb(output, expected, arrow_files):
    """Its Parquet reader, over fsspec: its extension for s3:// is downloaded when it is first used."""
    connection = duckdb.connect()
    connection.register_filesystem(ArrowFSWrapper(arrow_files))
    query = f"SELECT shard, index, re_caption FROM '{output.address}/data/**/*.parquet'"
    assert {row[:2]: row[2] for row in connection.sql(query).fetchall()} == expected
    connection.close()


def test_datasets(output, expected, tmp_path):
    """By obstore, which fsspec then takes for s3://. With s3fs nothing is to be registered."""
    code = (
        "import datasets, json, obstore.fsspec, sys\n"
        "obstore.fsspec.register('s3')\n"
        "options = {'client_options': {'allow_http': True}}\n"
        "files = sys.argv[1] + '/data/**/*.parquet'\n"
        "rows = datasets.load_dataset('parquet', data_files=files, storage_options=options, split='train')\n"
        "print(json.dumps([rows[name] for name in ('shard', 'index', 're_caption')], default=list))"
    )
    environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, output.address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shards, indices, captions = json.loads(done.stdout.splitlines()[-1])
    assert dict(zip(zip(shards, indices, strict=True), captions, strict=True)) == expected
