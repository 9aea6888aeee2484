"""A small checkpoint; the fake TensorRT-LLM, and engines built with it."""

import pytest
from support import checkpoints
from support.tensorrt_fixtures import build, fake, gpu, library, open_engine, pair

__all__ = ["build", "fake", "gpu", "library", "open_engine", "pair"]


@pytest.fixture
def checkpoint(tmp_path):
    checkpoints.make_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"
