"""Which versions run, what a machine without them is told, and engine.json against the engine's own config.json."""

import dataclasses
import importlib.metadata
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recap_fast.errors import ConfigError
from recap_fast.generate.device import Hardware
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tensorrt_backend import compatibility
from recap_fast.generate.tensorrt_backend.compatibility import (
    MODEL_FOLDER,
    check_same_machine,
    check_version,
    find_gpu,
)

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU is told")
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


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("version", "1.2.2"),
        ("pretrained_config.vocab_size", 999),
        ("pretrained_config.dtype", "float16"),
        ("pretrained_config.quantization.quant_algo", "FP8"),
        ("build_config.max_batch_size", 8),
        ("build_config.max_prompt_embedding_table_size", 1),
        ("build_config.max_seq_len", None),
    ],
)
@pytest.mark.usefixtures("gpu")
def test_every_difference_is_named(place, value, fake, build, open_engine):
    folder = build()
    path = folder / MODEL_FOLDER / "config.json"
    content = json.loads(path.read_text())
    *parents, last = place.split(".")
    table = content
    for part in parents:
        table = table[part]
    table[last] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"does not belong to the engine\.json") as caught:
        open_engine(folder)
    assert f"{place} is {value!r}" in str(caught.value)


@pytest.mark.parametrize("name", ["rank0.engine", "config.json"])
@pytest.mark.usefixtures("gpu")
def test_a_missing_file_is_named(name, fake, build, open_engine):
    folder = build()
    (folder / MODEL_FOLDER / name).unlink()
    with pytest.raises(ConfigError, match=rf"tensorrt_llm lacks {name}: build the engine again"):
        open_engine(folder)


@pytest.mark.usefixtures("gpu")
def test_an_engine_json_without_the_table_is_refused(fake, build, open_engine):
    folder = build()
    dataclasses.replace(EngineSpec.load(folder), backend_data=None).save(folder)
    with pytest.raises(ConfigError, match=r"'tensorrt_llm\.gpu' is missing"):
        open_engine(folder)


@pytest.mark.usefixtures("gpu")
def test_an_engine_of_the_flow_that_is_gone_is_refused_with_what_to_do(fake, build, open_engine):
    path = build() / "engine.json"
    path.write_text(path.read_text().replace('"flow": "trt"', '"flow": "pytorch"'))
    with pytest.raises(ConfigError, match="flow 'pytorch', and this version runs only 'trt': build it again, with"):
        open_engine(path.parent)
