"""A small checkpoint; the fake TensorRT-LLM, and engines built with it."""

import pytest
from support.tensorrt_fixtures import build, fake, gpu, library, open_engine, pair

from inputs import checkpoints

__all__ = ["build", "fake", "gpu", "library", "open_engine", "pair"]


@pytest.fixture
def checkpoint(tmp_path):
    checkpoints.make_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"
