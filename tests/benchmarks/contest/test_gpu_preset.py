"""The contest's preset for a GPU, with a stand-in for vLLM: what it is asked, the rows, what is left behind."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from contest import command
from contest.comparison import Comparison, Entry
from contest.contest import MismatchError
from contest.contestants import Candidate
from contest.kinds import KINDS, Kind
from contest.peers.protocol import Job


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    settings = {"cpu": dict.fromkeys(("bfloat16", "fp8"), KINDS["vllm"].settings["cuda"]["bfloat16"])}
    fake = Kind("fake_vllm_peer", "numpy", "pip install vllm", settings, str(Path(__file__).parent))
    monkeypatch.setitem(KINDS, "vllm", fake)
    monkeypatch.setitem(command.LENGTHS, "varied", lambda num: [4, 9, 6][:num])


@pytest.fixture
def stand_in_for_us(monkeypatch):
    """Where it is the contest that matters: a stand-in starts in a moment."""
    fake = dataclasses.replace(KINDS["vllm"], settings=KINDS["recap-fast"].settings)
    monkeypatch.setitem(KINDS, "recap-fast", fake)


def arguments(tmp_path, *more):
    fixed = ["--preset", "gpu", "--size", "tiny", "--device", "cpu", "--images", "3", "--repeat", "2", "--threads", "1"]
    return [*fixed, "--work", str(tmp_path), "--output", str(tmp_path / "found"), *more]


def test_vllm_runs_with_its_fastest_setting_on_resized_images_and_on_originals(tmp_path, capsys):
    assert command.main(arguments(tmp_path, "--precision", "bfloat16")) == 0
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
    spec = json.loads((tmp_path / "tiny-contest/engine-bfloat16/engine.json").read_text())
    assert spec["preprocess"]["mode"] == "crop", "as vLLM's processor does it; our recipe for the real size would pad"


@pytest.mark.usefixtures("stand_in_for_us")
def test_a_second_call_finds_checkpoint_and_engine(tmp_path):
    first = arguments(tmp_path, "--precision", "bfloat16", "--setting", "8192")
    assert command.main(first) == 0
    weights = [tmp_path / "tiny/model.safetensors", tmp_path / "tiny-contest/engine-bfloat16/weights.safetensors"]
    made = [file.stat().st_mtime_ns for file in weights]
    assert command.main([*first, "--images", "2"]) == 0
    assert [file.stat().st_mtime_ns for file in weights] == made
    (comparison,) = json.loads((tmp_path / "found.json").read_text())["comparisons"]
    assert comparison["lengths"] == [4, 9]
    assert comparison["tried_images_per_s"] == {}, "one setting alone is not tried"


@pytest.mark.usefixtures("stand_in_for_us")
def test_fp8_is_asked_of_both_with_the_same_keys_and_values(tmp_path):
    assert command.main(arguments(tmp_path, "--precision", "fp8", "--kv-precision", "fp8")) == 0
    jobs = [Job.read(file) for file in (tmp_path / "tiny-contest").glob("*-fp8-*.json")]
    assert {job.kv_precision for job in jobs} == {"fp8"}
    assert {job.gpu_memory for job in jobs} == {0.45}


def test_without_vllm_it_says_how_to_install_it_and_leaves_nothing_behind(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(KINDS, "vllm", Kind("none", "no_such_module", "pip install vllm", {}))
    monkeypatch.setattr(command, "make_work_folder", lambda _: tmp_path / "work")
    (tmp_path / "work").mkdir()
    assert command.main(["--preset", "gpu", "--size", "tiny", "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert f"contest: vllm is not installed for {sys.executable}" in captured.err
    assert captured.out == ""
    assert not (tmp_path / "work").exists()


def test_where_too_few_captions_agree_the_contest_fails():
    agreed = {"equal_captions": 0.9, "mean_equal_tokens": 20.0}
    entries = {"vllm": Entry(Candidate("vllm", "fp8"), {}, [1.0], agreed)}
    found = Comparison("test", [5], entries, {}, "bfloat16", 1)
    command.check_agreement(found, 0.9)
    with pytest.raises(MismatchError, match=r"vllm: 90\.0% of its captions .* not 97\.0%"):
        command.check_agreement(found, 0.97)
