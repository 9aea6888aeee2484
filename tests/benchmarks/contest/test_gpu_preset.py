"""benchmarks/gpu_command.py with a stand-in for vLLM: what it is asked, the rows of the table, what is left behind."""

import json
import sys
from pathlib import Path

import pytest
from contest import contestants, gpu_command
from contest.contestants import Kind
from contest.peers.protocol import Job
from inputs import models

TINY = {
    "text": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "heads": (4, 2), "vocab": 640},
    "vision": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "heads": 2},
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.SIZES, "6m", TINY)
    monkeypatch.setitem(gpu_command.LENGTHS, "varied", lambda num: [4, 9, 6][:num])
    fake = Kind("fake_vllm_peer", "numpy", "pip install vllm", {}, str(Path(__file__).parent))
    monkeypatch.setitem(contestants.KINDS, "vllm", fake)


def arguments(tmp_path, *more):
    fixed = ["--size", "6m", "--device", "cpu", "--images", "3", "--repeat", "2", "--threads", "1"]
    return [*fixed, "--work", str(tmp_path), "--output", str(tmp_path / "found"), *more]


def test_vllm_runs_with_its_fastest_setting_on_resized_images_and_on_originals(tmp_path, capsys):
    assert gpu_command.main(arguments(tmp_path, "--precision", "bfloat16")) == 0
    table = capsys.readouterr().out.strip()
    (comparison,) = json.loads((tmp_path / "found.json").read_text())["comparisons"]
    assert list(comparison["engines"]) == ["recap-fast", "vllm", "vllm, originals"]
    assert [len(engine["seconds"]) for engine in comparison["engines"].values()] == [2, 2, 2]
    assert comparison["engines"]["vllm"]["seconds"] == [8.0, 8.0]  # as the stand-in has it for 8192 without prefixes
    assert comparison["engines"]["vllm, originals"]["seconds"] == [16.0, 16.0]
    assert comparison["reference"] == "bfloat16"
    assert comparison["engines"]["recap-fast"]["agreement"]["equal_captions"] == 1.0
    assert len(comparison["tried_images_per_s"]) == 4
    assert "captions as in bfloat16" in table
    assert table in (tmp_path / "found.md").read_text()


def test_a_second_call_finds_checkpoint_and_engines(tmp_path):
    first = arguments(tmp_path, "--precision", "bfloat16", "--setting", "8192")
    assert gpu_command.main(first) == 0
    made = (tmp_path / "6m" / "model.safetensors").stat().st_mtime_ns
    assert gpu_command.main([*first, "--images", "2"]) == 0
    assert (tmp_path / "6m" / "model.safetensors").stat().st_mtime_ns == made
    (comparison,) = json.loads((tmp_path / "found.json").read_text())["comparisons"]
    assert comparison["lengths"] == [4, 9]
    assert comparison["tried_images_per_s"] == {}, "one setting alone is not tried"


def test_fp8_is_asked_of_both_with_the_same_keys_and_values(tmp_path):
    assert gpu_command.main(arguments(tmp_path, "--precision", "fp8", "--kv-precision", "fp8")) == 0
    jobs = [Job.read(file) for file in (tmp_path / "6m-contest").glob("*-fp8-*.json")]
    assert {job.kv_precision for job in jobs} == {"fp8"}
    assert {(job.settings.get("gpu_memory_utilization")) for job in jobs} == {None, 0.45}


def test_all_see_the_same_crop(tmp_path):
    """vLLM's processor crops; recap-fast's recipe for the real model would pad."""
    assert gpu_command.main(arguments(tmp_path, "--precision", "bfloat16", "--setting", "8192")) == 0
    spec = json.loads((tmp_path / "6m-contest" / "engine-bfloat16" / "engine.json").read_text())
    assert spec["preprocess"]["mode"] == "crop"


def test_without_vllm_it_says_how_to_install_it_and_leaves_nothing_behind(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(contestants.KINDS, "vllm", Kind("none", "no_such_module", "pip install vllm", {}))
    monkeypatch.setattr(gpu_command, "make_work_folder", lambda _: tmp_path / "work")
    (tmp_path / "work").mkdir()
    assert gpu_command.main(["--size", "6m", "--device", "cpu"]) == 1
    assert f"contest: vllm is not installed for {sys.executable}" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
