"""The demo engine on the real TensorRT-LLM: `pytest -m trtllm` in NVIDIA's container, where nobody has run it yet."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import make_shards
import pytest
import torch
from support.runs import read_rows

CHECKPOINT = Path(__file__).parents[3] / "demo/recap-tiny"
NUM_SAMPLES = 100
AGREEMENT = {"bfloat16": 0.95, "fp8": 0.8}
"""Share of rows that are equal: two libraries round otherwise, and a caption that differs once differs on. FP8 is
scaled by the tensor in TensorRT-LLM and by row and channel in the torch engine."""


def run_command(*arguments: object, codes: tuple[int, ...] = (0,)) -> None:
    """Runs `recap-fast` in a process of its own, which TensorRT-LLM wants, and which may warn."""
    command = [sys.executable, "-m", "recap_fast", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in codes, f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}"


@pytest.mark.trtllm
@pytest.mark.parametrize("precision", ["bfloat16", "fp8"])
def test_captions_are_those_of_the_torch_backend(precision: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt_llm") is None or not torch.cuda.is_available():
        pytest.skip("needs the real tensorrt_llm and a GPU: NVIDIA's container")
    if precision == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no FP8")
    make_shards.make_shards(tmp_path / "shards", 1, NUM_SAMPLES, seed=7)
    build = ("build-engine", "recap_tiny", "--checkpoint", CHECKPOINT, "--precision", precision, "--output")

    def caption(engine: Path, *sampling: object) -> list[tuple[str, str | None]]:
        output = engine.with_name(f"{engine.name}-captions{len(sampling)}")
        shards = f"{tmp_path}/shards/*.tar"
        run_command("run", "--engine", engine, "--shards", shards, "--output", output, *sampling, codes=(0, 3))
        return [(row["status"], row["re_caption"]) for row in read_rows(output)]

    run_command(*build, tmp_path / "torch")
    truth = caption(tmp_path / "torch")
    calibration = ("--calibration", tmp_path / "torch-captions0") if precision == "fp8" else ()
    run_command(*build, tmp_path / "compiled", "--backend", "tensorrt-llm", *calibration)
    rows = caption(tmp_path / "compiled")
    assert len(rows) == len(truth) == NUM_SAMPLES
    assert sum(row == expected for row, expected in zip(rows, truth, strict=True)) >= AGREEMENT[precision] * NUM_SAMPLES
    drawn = caption(tmp_path / "compiled", "--temperature", 1, "--top-k", 50, "--top-p", 0.9)
    assert [status for status, _ in drawn] == [status for status, _ in truth]
