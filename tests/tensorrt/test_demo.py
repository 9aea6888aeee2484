"""The demo shards through both flows, on the fake and, where it is installed, on the real library.

With the fake this shows that we call what was recorded and put answers where they belong; it says nothing about the
real library. `pytest -m trtllm` does, in NVIDIA's container on a GPU, and has not been run there yet.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trtllm_fake.demo import GPU, ROOT, Rows, build_demo, caption_demo, write_demo_shards
from trtllm_fake.faults import Faults
from trtllm_fake.package import write_site

FLOWS = ("trt", "pytorch")
NUM_SAMPLES = 12
AGREEMENT = 0.95
"""Share of equal captions in bfloat16: two libraries round otherwise, and a caption that differs once differs on."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_shards(tmp_path_factory.mktemp("shards"), NUM_SAMPLES)


@pytest.fixture(scope="module")
def expected(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The torch backend's captions in float32."""
    folder = tmp_path_factory.mktemp("torch")
    rows = caption_demo(build_demo(folder), shards, folder / "captions", "--device", "cpu")
    assert len({caption for _, caption in rows.values() if caption}) > NUM_SAMPLES // 2
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
def test_a_run_on_the_fake_dies_and_is_resumed(flow: str, shards: Path, expected: Rows, tmp_path: Path) -> None:
    dying = write_site(tmp_path / "dying", Faults(dies_after=3), GPU)
    failing = write_site(tmp_path / "failing", Faults(failing=(2,)), GPU)
    engine = build_demo(tmp_path, "--backend", "tensorrt-llm", "--flow", flow, site=dying)
    caption_demo(engine, shards, tmp_path / "captions", site=dying, codes=(1,))
    rows = caption_demo(engine, shards, tmp_path / "captions", site=failing)
    assert rows.keys() == expected.keys()
    (differing,) = [key for key in rows if rows[key] != expected[key]]
    assert rows[differing] == ("generation_error", None)


def require_library() -> None:
    """Skips the test unless the real library and a GPU are there."""
    import torch

    if importlib.util.find_spec("tensorrt_llm") is None or not torch.cuda.is_available():
        pytest.skip("needs the real tensorrt_llm and a GPU: NVIDIA's container")


@pytest.mark.trtllm
def test_the_table_is_that_of_the_real_library() -> None:
    require_library()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "trtllm_fake.regenerate"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.trtllm
@pytest.mark.parametrize("flow", FLOWS)
def test_both_flows_agree_with_the_torch_backend_on_a_gpu(flow: str, shards: Path, tmp_path: Path) -> None:
    require_library()
    ours, theirs = tmp_path / "torch", tmp_path / "tensorrt"
    engine = build_demo(ours, "--precision", "bfloat16")
    expected = caption_demo(engine, shards, ours / "captions")
    engine = build_demo(theirs, "--precision", "bfloat16", "--backend", "tensorrt-llm", "--flow", flow)
    rows = caption_demo(engine, shards, theirs / "captions")
    assert rows.keys() == expected.keys()
    assert sum(rows[key] == expected[key] for key in rows) >= AGREEMENT * len(rows)
