"""The demo engine, inputs of all kinds, and their captions."""

from pathlib import Path

import pytest
from support import replays
from support.manual import ROOT

import recap_fast


@pytest.fixture(scope="session")
def demo_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "engine"
    recap_fast.build_engine("recap_tiny", ROOT / "demo/recap-tiny", folder)
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replays.write_inputs(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session")
def captions(demo_engine: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replays.caption(demo_engine, drawn, tmp_path_factory.mktemp("captions") / "out")
