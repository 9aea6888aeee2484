"""Fixtures: TensorRT-LLM is the strict fake, the GPU is said to be there and is the CPU; one small LLaVA for all."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tensorrt_fake.package import installed
from support.tensorrt_fake.strict import Fake, Faults

from inputs.oracle import Pair, make_pair
from recap_fast.build.engine_directory import build_engine
from recap_fast.generate.device import Hardware
from recap_fast.generate.engine import Engine, EngineOptions
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.tensorrt_backend import compatibility

IMPORTERS = ("recap_fast.build.tensorrt_compile", "recap_fast.generate.tensorrt_backend.executor")
"""Our modules that import TensorRT-LLM as they load."""
H100 = Hardware(device=torch.device("cpu"), name="NVIDIA H100 80GB HBM3", capability=(9, 0))
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
def gpu(monkeypatch: pytest.MonkeyPatch) -> Hardware:
    """A card where there is none."""
    monkeypatch.setattr(compatibility, "find_gpu", lambda device: H100)
    return H100


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Installer]:
    """Makes `import tensorrt_llm` a fake with these faults, up to the next one or the end; our modules read it anew."""
    with contextlib.ExitStack() as stack:

        def install(**faults: Any) -> Fake:
            stack.close()
            stack.callback(_forget)
            _forget()
            return stack.enter_context(installed(tmp_path / "site", Faults(**faults)))

        yield install


def _forget() -> None:
    for name in IMPORTERS:
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
    """The recipe of the fixtures' engines."""
    path = folder / f"{precision}-{kv_precision}.toml"
    path.write_text(RECIPE.format(precision=precision, kv_precision=kv_precision), encoding="utf-8")
    return path


@pytest.fixture
def build(pair: Pair, tmp_path: Path) -> Callable[..., Path]:
    """Builds an engine of the pair's checkpoint, or of another one, for this backend: tmp_path / "engine"."""

    def make(*, precision: str = "float32", kv_precision: str = "auto", **choices: Any) -> Path:
        recipe = write_recipe(tmp_path, precision=precision, kv_precision=kv_precision)
        checkpoint = choices.pop("checkpoint", pair.folder.parent / "checkpoint")
        build_engine(recipe, checkpoint, tmp_path / "engine", backend="tensorrt-llm", **choices)
        return tmp_path / "engine"

    return make


@pytest.fixture
def open_engine(library: Installer) -> Iterator[Callable[..., Engine]]:
    """Opens an engine directory as `run` does; closed at the end."""
    opened: list[Engine] = []

    def make(folder: Path, *, prompts: Sequence[str] = (), **options: Any) -> Engine:
        given = EngineOptions(**{"loop_stop": False, **options})
        opened.append(PreparedEngine.read(folder, prompts=prompts).open(given))
        return opened[-1]

    yield make
    for each in opened:
        each.close()
