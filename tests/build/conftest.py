"""A small checkpoint; the fake TensorRT-LLM, and engines built with it."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.tensorrt_fixtures import build, fake, gpu, library, open_engine, pair
from torch import Tensor

from inputs import checkpoints

__all__ = ["build", "fake", "gpu", "library", "open_engine", "pair"]


@pytest.fixture
def checkpoint(tmp_path):
    checkpoints.make_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def change():
    """Puts tensors into a checkpoint of one file; None takes one out."""

    def put(folder: Path, changed: dict[str, Tensor | None]) -> None:
        tensors = {**load_file(folder / "model.safetensors"), **changed}
        save_file({n: t.clone() for n, t in tensors.items() if t is not None}, folder / "model.safetensors")

    return put
