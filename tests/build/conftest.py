"""The fake TensorRT-LLM, and engines built with it."""

from support.tensorrt_fixtures import build, fake, gpu, library, open_engine, pair

__all__ = ["build", "fake", "gpu", "library", "open_engine", "pair"]
