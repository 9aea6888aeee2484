"""The benchmarks that take TensorRT-LLM as one more backend, with the fake."""

import importlib.util
import json

import pytest
from contest import compare_trtllm
from suite import trtllm
from suite.setting import Setting
from support import runs

from recap_fast.generate.engine import EngineOptions

pytestmark = pytest.mark.usefixtures("gpu")


def test_the_compiled_engine_says_what_the_torch_engine_says(fake, pair, build, tmp_path, capsys):
    shards = runs.write_pictures(tmp_path / "in", 2, 4, bad=[1])
    engines = [str(pair.folder), str(build())]
    result = tmp_path / "result.json"
    compare_trtllm.main(
        [*engines, "--shards", f"{shards}/*.tar", "--limit", "7", "--repeat", "1", "--json", str(result)]
    )
    rows = json.loads(result.read_text())["rows"]
    assert [row["images"] for row in rows] == [5, 5]
    assert [row["equal_captions"] for row in rows] == [1.0, 1.0]
    assert all(row["images_per_s"] > 0 and row["tokens"] == rows[0]["tokens"] for row in rows)
    assert "tensorrt-llm 1.2.1" in capsys.readouterr().out


def test_agreement_counts_captions_and_tokens():
    found = compare_trtllm.agreement([[1, 2, 3], [1, 2], [4, 5]], [[1, 2, 3], [1, 2, 3], [4, 6]])
    assert found == {"equal_captions": pytest.approx(1 / 3), "mean_equal_tokens": pytest.approx((3 + 2 + 1) / 3)}


def test_a_difference_is_seen(fake, pair, build, tmp_path):
    shards = runs.write_pictures(tmp_path / "in", 1, 4)
    requests = compare_trtllm.read_requests(pair.folder, [f"{shards}/*.tar"], 4)
    result = compare_trtllm.measure(build(), requests, EngineOptions(loop_stop=False), 1)
    assert compare_trtllm.agreement(result.captions, result.captions[::-1])["equal_captions"] < 1.0


def test_the_suite_says_that_the_library_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = trtllm.run(Setting(device="cpu", size="tiny", work=tmp_path))
    assert [(line.what, line.figure, line.met) for line in found.lines] == [("TensorRT-LLM", "not installed", None)]


def test_the_suite_compiles_and_runs_the_demo_engine(fake, tmp_path):
    found = trtllm.run(Setting(device="cpu", size="tiny", work=tmp_path))
    assert [line.met for line in found.lines] == [True], found.details
