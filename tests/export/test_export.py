"""An export as a whole: where it may write, and what it tells of inputs that are not whole."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from support.exports import below, make_output, run_export
from support.shard_files import webdataset_members, write_tar

from recap_fast.errors import ConfigError


@pytest.fixture
def made(tmp_path):
    write_tar(tmp_path / "in/00000.tar", webdataset_members(4))
    return make_output(tmp_path / "out", tmp_path / "in")


@pytest.mark.parametrize("target", ["out", "out/data/more", "link", "link/more"])
def test_nothing_is_written_into_the_output(made, tmp_path, target):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    before = below(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"lies in the output .*out, which stays as it is: give another folder"):
        run_export(made, "parquet", tmp_path / target)
    assert below(tmp_path / "out") == before


def test_tars_are_not_written_over_their_inputs(made, tmp_path):
    before = below(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"in/00000\.tar is an input of the run"):
        run_export(made, "webdataset", tmp_path / "in", overwrite=True, skip="failed")
    assert {name: content for name, content in below(tmp_path / "in").items() if name in before} == before


@pytest.mark.parametrize("kind", ["jsonl", "webdataset"])
def test_a_shard_that_the_run_could_not_read_to_its_end_is_named(made, tmp_path, kind):
    record = tmp_path / "out/manifests/00000.json"
    record.write_text(json.dumps({**json.loads(record.read_bytes()), "status": "truncated"}))
    assert run_export(made, kind, tmp_path / "there").truncated == ["00000"]


def test_an_input_that_is_gone_is_named_once(made, tmp_path):
    shutil.rmtree(tmp_path / "in")
    for kind in ("webdataset", "parquet"):
        (problem,) = run_export(made, kind, tmp_path / kind).problems
        assert problem.count("00000.tar") == 1, problem


@pytest.mark.parametrize(
    ("kind", "target", "is_told"),
    [("webdataset", "in/tars", True), ("parquet", "in", True), ("jsonl", "in/lines", False), ("parquet", "to", False)],
)
def test_it_tells_where_a_later_run_would_find_the_files(made, tmp_path, kind, target, is_told):
    advice = run_export(made, kind, tmp_path / target).advice
    assert any("lies in a folder of the inputs" in line for line in advice) == is_told


@pytest.mark.parametrize(
    ("schema", "lacking"), [(2, ["flags", "duplicate_of", "captions"]), (3, ["captions"])], ids=["2", "3"]
)
def test_outputs_of_earlier_versions_are_exported(made, tmp_path, schema, lacking):
    run, record, data = (tmp_path / "out" / name for name in ("run.json", "manifests/00000.json", "data/00000.parquet"))
    content = json.loads(run.read_bytes())
    content["fingerprint"]["schema"] = schema
    run.write_text(json.dumps(content))
    pq.write_table(pq.read_table(data).drop_columns(lacking), data)
    if schema == 2:
        content = json.loads(record.read_bytes())
        del content["flags"]
        record.write_text(json.dumps({**content, "format": 2}))
    for kind in ("jsonl", "csv", "txt", "webdataset", "parquet"):
        result = run_export(made, kind, tmp_path / kind, skip="failed")
        assert (result.shards, result.counts["captions"]) == (1, 4), kind
    assert pq.read_table(tmp_path / "parquet/data")["flags"].to_pylist() == [None if schema == 2 else []] * 4
    if schema == 2:
        with pytest.raises(ConfigError, match=r"--skip loop: .*out is of an earlier version .* rows have no flags\."):
            run_export(made, "jsonl", tmp_path / "skipped", skip="loop,failed")
