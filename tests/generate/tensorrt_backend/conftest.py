"""TensorRT-LLM is the strict fake, the GPU is said to be there and is the CPU; one small LLaVA for all."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engines import Pair, make_pair
from trtllm_fake.faults import Faults
from trtllm_fake.package import Fake, installed

from recap_fast.build.engine_directory import build_engine
from recap_fast.generate.backends import open_engine
from recap_fast.generate.engine import Engine, EngineOptions
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tensorrt_backend import environment
from recap_fast.generate.tensorrt_backend.environment import Gpu

FLOWS = ("trt", "pytorch")
FLOW_MODULES = [f"recap_fast.generate.tensorrt_backend.{flow}_flow" for flow in FLOWS]
H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0", torch.device("cpu"))
RECIPE = """
name = "small"
precision = "{precision}"
kv_precision = "{kv_precision}"
prompt = "Describe the image."
[limits]
max_new_tokens = 24
num_slots = 4
prefill_images = 2
"""
Installer = Callable[..., Fake]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A card where there is none."""
    monkeypatch.setattr(environment, "find_gpu", lambda device: H100)
    return H100


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Installer]:
    """Makes `import tensorrt_llm` a fake with these faults, up to the next one or the end; our modules read it anew."""
    with contextlib.ExitStack() as stack:

        def install(**faults: Any) -> Fake:
            stack.close()
            stack.callback(forget)
            forget()
            return stack.enter_context(installed(tmp_path / "site", Faults(**faults)))

        yield install


def forget() -> None:
    for name in FLOW_MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def fake(library: Installer) -> Fake:
    """The fake without faults."""
    return library()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The torch engine, transformers' model and their checkpoint."""
    folder = tmp_path_factory.mktemp("pair")
    return make_pair(folder, recipe=str(write_recipe(folder)))


def write_recipe(folder: Path, *, precision: str = "float32", kv_precision: str = "auto") -> Path:
    path = folder / f"{precision}-{kv_precision}.toml"
    path.write_text(RECIPE.format(precision=precision, kv_precision=kv_precision), encoding="utf-8")
    return path


@pytest.fixture
def build(pair: Pair, tmp_path: Path) -> Callable[..., Path]:
    """Builds an engine of the pair's checkpoint for this backend."""

    def make(flow: str, *, precision: str = "float32", kv_precision: str = "auto", **choices: Any) -> Path:
        output = tmp_path / f"engine-{flow}"
        recipe = write_recipe(tmp_path, precision=precision, kv_precision=kv_precision)
        checkpoint = choices.pop("checkpoint", pair.folder.parent / "checkpoint")
        build_engine(recipe, checkpoint, output, backend="tensorrt-llm", flow=flow, **choices)
        return output

    return make


@pytest.fixture
def start(pair: Pair, library: Installer) -> Iterator[Callable[..., Engine]]:
    """Opens an engine directory as `run` does; closed at the end."""
    opened: list[Engine] = []

    def open_(folder: Path, **options: Any) -> Engine:
        given = EngineOptions(**{"loop_stop": False, **options})
        engine = open_engine(folder, EngineSpec.load(folder), given, pair.prompts)
        opened.append(engine)
        return engine

    yield open_
    for engine in opened:
        engine.close()
