"""What all tests share: the rule for GPU tests, one tiny real engine, and a server that runs commands on it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""The models are tiny: threads would only wait for each other, for milliseconds wherever another process has a core."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need CUDA are skipped without it; where RECAP_FAST_REQUIRE_CUDA=1 says that it is there, they fail."""
    wanting = [item for item in items if item.get_closest_marker("needs_cuda")]
    if not wanting or os.environ.get("RECAP_FAST_REQUIRE_CUDA") == "1":
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a real engine of random weights: 32 px, float32, 8 slots, captions of up to 24 tokens."""
    from support import engines

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.toml").write_text(
        'name = "tiny"\nprecision = "float32"\nprompt = "Describe the image."\n'
        "[limits]\nmax_new_tokens = 24\nnum_slots = 8\nprefill_images = 4\n"
    )
    return engines.make_pair(folder, recipe=str(folder / "tiny.toml")).folder


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    """Runs `recap-fast` commands, each in a process of its own; see runs.Server."""
    from support import runs

    with runs.Server() as started:
        yield started


@pytest.fixture
def small_inputs(tmp_path: Path) -> Path:
    """Two tars of six pictures."""
    from support import runs

    return runs.write_pictures(tmp_path / "in", 2, 6)


@pytest.fixture
def start(tiny_engine: Path, small_inputs: Path) -> Any:
    """Runs in this process, on `small_inputs` into tmp_path / "out", with a changed config; see launches.Launch."""
    from support import launches

    def run(**changed: Any) -> launches.Launch:
        return launches.Launch(launches.make_config(tiny_engine, small_inputs, **changed))

    return run
