"""A random LLaVA, and its language model as the flows read it; and the fake library."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engines import Pair, make_pair
from trtllm_fake.callers import build_engine
from trtllm_fake.faults import Faults
from trtllm_fake.package import Fake, installed
from trtllm_fake.plain_llama import write_plain_llama


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def llama(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Llama's directory, on a path without the two words."""
    return write_plain_llama(pair.model, tmp_path_factory.mktemp("plain") / "lm")


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """Those of `@pytest.mark.parametrize("faults", [...], indirect=True)`, else none."""
    return getattr(request, "param", Faults())


@pytest.fixture
def fake(tmp_path: Path, faults: Faults) -> Iterator[Fake]:
    """`import tensorrt_llm` is the fake; afterwards it is gone."""
    with installed(tmp_path / "site", faults) as there:
        yield there
    assert not any(name.split(".")[0] == "tensorrt_llm" for name in sys.modules)


@pytest.fixture
def engine(fake: Fake, llama: Path, tmp_path: Path) -> Path:
    """The plain Llama compiled for four requests of 16 image tokens."""
    return build_engine(llama, tmp_path / "engine", 16)
