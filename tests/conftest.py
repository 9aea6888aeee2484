"""What all tests share: how chance is tamed, the rule for GPU tests, a tiny engine, a server that runs commands."""

import os
import random
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from support import examples

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""The models are tiny: threads would only wait for each other, for milliseconds wherever another process has a core."""


examples.register_profiles()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `fuzz` or `chaos` run in the profile `fuzz` alone.

    Tests that need CUDA are skipped without it; where RECAP_FAST_REQUIRE_CUDA=1 says that it is there, they fail.
    """
    if settings.get_current_profile_name() != "fuzz":
        long = [item for item in items if item.get_closest_marker("fuzz") or item.get_closest_marker("chaos")]
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)
    wanting = [item for item in items if item.get_closest_marker("needs_cuda")]
    if not wanting or os.environ.get("RECAP_FAST_REQUIRE_CUDA") == "1":
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The command that repeats what the profile `fuzz` has found."""
    seed = config.getoption("--hypothesis-seed")
    if settings.get_current_profile_name() == "fuzz" and seed is not None:
        for report in terminalreporter.stats.get("failed", []):
            options = f"--hypothesis-profile=fuzz --hypothesis-seed={seed}"
            terminalreporter.write_line(f"To replay: .venv/bin/pytest '{report.nodeid}' {options}")


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Whatever is drawn without a generator of its own is the same for a test each time, in any order of the tests.

    With --hypothesis-seed it is another each seed.
    """
    seed = zlib.crc32(f"{request.node.nodeid} {request.config.getoption('--hypothesis-seed')}".encode())
    random.seed(seed)
    np.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a real engine of random weights: 32 px, float32, 8 slots, captions of up to 24 tokens."""
    from inputs import oracle

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.toml").write_text(
        'name = "tiny"\nprecision = "float32"\nprompt = "Describe the image."\n'
        "[limits]\nmax_new_tokens = 24\nnum_slots = 8\nprefill_images = 4\n"
    )
    return oracle.make_pair(folder, recipe=str(folder / "tiny.toml")).folder


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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Any]:
    """A real S3 server on loopback, in a process of its own; see s3_server.S3Server."""
    from support import s3_server

    with s3_server.S3Server() as started:
        yield started


@pytest.fixture
def s3_bucket(s3_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket, `s3://...`; the environment names the server, for the processes of the test, too."""
    from support.s3_server import changed_environment

    for name, value in changed_environment(s3_server.endpoint, tmp_path).items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    return f"s3://{s3_server.make_bucket()}"


@pytest.fixture
def s3_faults(s3_server: Any, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A proxy in front of the server of `s3_bucket`, in the environment instead of it; see fault_proxy.FaultProxy."""
    from support import fault_proxy

    with fault_proxy.FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy
