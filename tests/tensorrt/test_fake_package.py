"""The fake is as strict as its table, and leaves nothing behind. That the table is right is not shown here."""

import importlib
import importlib.metadata
import inspect
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trtllm_fake import torch_models
from trtllm_fake.contract import Contract, ValidationError, is_without_engines, make_signature
from trtllm_fake.faults import Faults
from trtllm_fake.package import Fake, installed, write_site

EXECUTOR = "tensorrt_llm.bindings.executor"
KINDS = {"function", "class", "model", "base", "enum", "exception", "alias", "value", "env"}


def test_unknown_names_raise(fake: Fake) -> None:
    import tensorrt_llm

    with pytest.raises(AttributeError, match="not in the contract table"):
        _ = tensorrt_llm.ModelRunner
    with pytest.raises(ImportError):
        from tensorrt_llm.builder import BuilderConfig  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        import tensorrt_llm.runtime


def test_unknown_keywords_and_missing_arguments_raise(fake: Fake) -> None:
    from tensorrt_llm.bindings import executor
    from tensorrt_llm.builder import BuildConfig

    with pytest.raises(TypeError, match="top_kk"):
        executor.SamplingConfig(top_kk=1)
    with pytest.raises(TypeError, match="max_tokens"):
        executor.Request([1, 2])
    with pytest.raises(TypeError, match="too many positional"):
        executor.Request([1, 2], 3, False)
    with pytest.raises(ValidationError, match="max_multimodal_len"):
        BuildConfig(max_multimodal_len=576)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_token_ids", np.array([1, 2], np.int32)),
        ("input_token_ids", [np.int32(1)]),
        ("input_token_ids", (1, 2)),
        ("max_tokens", np.int64(4)),
        ("max_tokens", 4.0),
        ("client_id", "7"),
        ("stop_words", [7]),
        ("prompt_tuning_config", torch.zeros(2, 2)),
        ("output_config", {}),
    ],
)
def test_values_of_another_type_raise(fake: Fake, name: str, value: object) -> None:
    from tensorrt_llm.bindings import executor

    arguments: dict[str, Any] = {"input_token_ids": [1, 2], "max_tokens": 4, name: value}
    with pytest.raises(TypeError, match=name):
        executor.Request(**arguments)


def test_attributes_are_read_and_written_as_recorded(fake: Fake) -> None:
    from tensorrt_llm.bindings import executor

    request = executor.Request([1, 2], 4, end_id=3)
    request.end_id = 5
    assert (request.input_token_ids, request.end_id) == ([1, 2], 5)
    with pytest.raises(AttributeError, match="read-only"):
        request.max_tokens = 5
    with pytest.raises(AttributeError, match="contract table"):
        _ = request.num_tokens
    config = executor.PromptTuningConfig(torch.zeros(2, 2))
    with pytest.raises(AttributeError):
        config.embedding_table = torch.ones(2, 2)
    with pytest.raises(TypeError, match="no constructor"):
        executor.Response()


def test_defaults_are_objects_of_their_own(fake: Fake) -> None:
    from tensorrt_llm.bindings import executor
    from tensorrt_llm.builder import BuildConfig

    first, second = executor.ExecutorConfig(), executor.ExecutorConfig()
    first.kv_cache_config.enable_block_reuse = False
    assert second.kv_cache_config.enable_block_reuse is True
    assert first.batching_type is executor.BatchingType.INFLIGHT
    assert BuildConfig().plugin_config.gemm_plugin is None


def test_plugins_are_set_by_attribute(fake: Fake) -> None:
    from tensorrt_llm.builder import BuildConfig

    plugins = BuildConfig().plugin_config
    plugins.gemm_plugin = "auto"
    assert plugins.gemm_plugin == "float16"
    plugins.dtype = "bfloat16"
    assert plugins.gemm_plugin == plugins.gpt_attention_plugin == "bfloat16"
    with pytest.raises(ValidationError, match="gemm_plugins"):
        plugins.gemm_plugins = "auto"
    with pytest.raises(ValidationError, match="bf16"):
        plugins.gemm_plugin = "bf16"


@pytest.mark.parametrize("faults", [Faults(drop=("max_num_tokens", "gemm_plugin"))], indirect=True)
def test_values_are_dropped_on_demand(fake: Fake) -> None:
    from tensorrt_llm.builder import BuildConfig

    config = BuildConfig(max_num_tokens=1234, max_batch_size=7)
    config.plugin_config.gemm_plugin = "auto"
    assert (config.max_num_tokens, config.max_batch_size, config.plugin_config.gemm_plugin) == (8192, 7, None)


def test_calls_are_kept(fake: Fake) -> None:
    from tensorrt_llm.bindings import executor

    executor.KvCacheConfig(enable_block_reuse=False)
    (given,) = fake.calls("bindings.executor.KvCacheConfig")
    assert given["enable_block_reuse"] is False
    assert given["max_tokens"] is None
    assert fake.calls("bindings.executor.Request") == []


def test_overloads() -> None:
    signatures = Contract().signatures(f"{EXECUTOR}.Executor", "await_responses")
    assert len(signatures) == 3
    assert signatures[1].bind(4, timeout=timedelta(1)).arguments == {"id": 4, "timeout": timedelta(1)}


def find_version() -> str | None:
    try:
        return importlib.metadata.version("tensorrt-llm")
    except importlib.metadata.PackageNotFoundError:
        return None


def test_nothing_stays_behind(tmp_path: Path) -> None:
    before = list(sys.path), dict(os.environ), find_version()
    with installed(tmp_path / "site"):
        os.environ["TLLM_WORKER_USE_SINGLE_PROCESS"] = "1"
        import tensorrt_llm.llmapi

        assert tensorrt_llm.llmapi.SamplingParams is tensorrt_llm.SamplingParams
        assert find_version() == "1.2.1"
    assert not any(name.startswith("tensorrt_llm") for name in sys.modules)
    assert (list(sys.path), dict(os.environ), find_version()) == before


def test_another_process_finds_it(tmp_path: Path) -> None:
    startup = "import builtins; builtins.from_startup = 7"
    site = write_site(tmp_path / "site", Faults(version="1.2.0"), startup)
    code = (
        "import importlib.metadata as m, builtins\n"
        "from tensorrt_llm.bindings import executor\n"
        "import tensorrt_llm as t\n"
        "print(t.__version__, m.version('tensorrt'), executor.SamplingConfig(top_k=1).top_k, builtins.from_startup)\n"
        "try:\n executor.SamplingConfig(k=1)\nexcept TypeError as e:\n print('k' in str(e))"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["1.2.0", "10.14.1", "1", "7", "True"], done.stderr


@pytest.mark.parametrize(
    ("version", "gone"),
    [
        ("1.2.0", False),
        ("1.2.1", False),
        ("1.3.0rc20", False),
        ("1.3.0rc21", True),
        ("1.3.0", True),
        ("1.4.0rc1", True),
    ],
)
def test_later_versions_have_no_engines(version: str, gone: bool) -> None:
    assert is_without_engines(version) is gone


@pytest.mark.parametrize("faults", [Faults(version="1.4.0rc1")], indirect=True)
def test_without_engines_only_the_pytorch_flow_is_there(fake: Fake) -> None:
    import tensorrt_llm

    assert tensorrt_llm.__version__ == "1.4.0rc1"
    assert inspect.isclass(tensorrt_llm.LLM)
    with pytest.raises(ModuleNotFoundError):
        import tensorrt_llm.builder
    with pytest.raises(ImportError):
        from tensorrt_llm.bindings.executor import Executor  # noqa: F401


def test_the_table_is_well_formed() -> None:
    contract = Contract()
    for name, entry in contract.entries.items():
        assert entry["kind"] in KINDS, name
        assert entry["tag"], name
        if entry["kind"] == "alias":
            assert entry["of"] in contract.entries, name
        if entry["kind"] in ("function", "class", "model", "base"):
            named = {p.name for signature in contract.signatures(name) for p in signature.parameters.values()}
            known = named | set(entry.get("read", ())) | set(entry.get("fields", ()))
            assert set(entry.get("types", ())) <= known, name
        for method in entry.get("methods", {}):
            assert contract.signatures(name, method), name


def test_every_symbol_is_there_under_its_name(fake: Fake) -> None:
    for name in Contract().entries:
        if not name.startswith("env."):
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize(
    ("symbol", "made"),
    [
        ("_torch.models.modeling_llama.LlamaForCausalLM", torch_models.LlamaForCausalLM),
        ("inputs.registry.BaseMultimodalInputProcessor", torch_models.BaseMultimodalInputProcessor),
    ],
)
def test_classes_to_derive_from_have_the_recorded_signatures(symbol: str, made: type) -> None:
    entry = Contract().entry(f"tensorrt_llm.{symbol}")
    methods = {"__init__": entry, **entry["methods"]}
    for name, recorded in methods.items():
        parameters = list(inspect.signature(getattr(made, name)).parameters.values())[1:]
        assert [(p.name, p.kind, p.default) for p in parameters] == [
            (p.name, p.kind, p.default) for p in make_signature(recorded).parameters.values()
        ], name
    assert set(entry.get("abstract", ())) == set(getattr(made, "__abstractmethods__", ()))
