"""An export as a whole: where it may write, and what it tells of inputs that are not whole."""

import json
import shutil

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
