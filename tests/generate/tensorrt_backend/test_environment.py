"""Which versions run, and what a machine without them is told."""

import dataclasses
import importlib.metadata
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recap_fast.errors import ConfigError
from recap_fast.generate.device import Hardware
from recap_fast.generate.tensorrt_backend import compatibility
from recap_fast.generate.tensorrt_backend.compatibility import check_same_machine, check_version, find_gpu

HERE = Hardware(device=torch.device("cpu"), name="NVIDIA H100 80GB HBM3", capability=(9, 0))


@pytest.mark.parametrize(("version", "said"), [("1.2.1", ""), ("1.2.2", "finds 1.2.2"), ("1.2.5", "finds 1.2.5")])
def test_versions_but_the_one_it_was_written_for_are_taken_with_a_warning(version, said, caplog):
    check_version(version)
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("1.2.0", "corrupts its key-value cache"),
        ("1.2.0rc6", "corrupts its key-value cache"),
        ("1.1.0", "too old"),
        ("0.21.0", "too old"),
        ("1.3.0rc5", "compiles no engines"),
        ("1.3.0", "build the engine with --backend torch"),
        ("2.0.0", "compiles no engines"),
        ("unknown", "too old"),
    ],
)
def test_the_rest_is_refused(version, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        check_version(version)
    assert version in str(caught.value)
    assert "TensorRT-LLM Release" in str(caught.value)


def test_a_missing_package_says_where_it_is(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match=r"not installed.*container.*package index.*stub"):
        compatibility.require_library()


def test_a_package_that_does_not_load_is_no_traceback():
    with pytest.raises(ConfigError, match=r"cannot be imported: libnvinfer"), compatibility.importing():
        raise ImportError("libnvinfer.so.10 is missing")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_without_a_gpu_it_says_so(device):
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU"):
        find_gpu(device)


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_other_devices_are_refused(device):
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        find_gpu(device)


@pytest.mark.parametrize(
    ("version", "gpu"),
    [
        ("1.2.2", HERE),
        ("1.2.1", dataclasses.replace(HERE, name="NVIDIA H200")),
        ("1.2.1", dataclasses.replace(HERE, capability=(8, 9))),
    ],
)
def test_a_compiled_engine_runs_nowhere_else(version, gpu):
    built: Any = SimpleNamespace(versions={"tensorrt_llm": "1.2.1"}, gpu=HERE.name, sm="9.0")
    with pytest.raises(ConfigError, match=r"H100.*9\.0.*Build it again on this machine") as caught:
        check_same_machine(built, version, gpu)
    assert gpu.name in str(caught.value)
