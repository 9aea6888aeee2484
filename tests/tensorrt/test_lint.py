"""The project's source uses only what the contract table has, in one place, and imports it late."""

from pathlib import Path

import pytest
from trtllm_fake.contract import Contract
from trtllm_fake.lint import lint, used_symbols
from trtllm_fake.source_checker import BACKEND, DOORS

ROOT = Path(__file__).parent.parent.parent
EXECUTOR = "from tensorrt_llm.bindings import executor as trt"
BUILD = "from tensorrt_llm.builder import BuildConfig"


def project_files() -> dict[str, str]:
    """The sources of the package and of the benchmarks, by path."""
    paths = [p for folder in ("recap_fast", "benchmarks") for p in sorted((ROOT / folder).rglob("*.py"))]
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in paths}


def findings(body: str, path: str = DOORS[0], head: str = "") -> list[str]:
    """What the lint says of a function with this body, without the path."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    found = lint({path: f"{head}def f(self):\n{lines}"}, Contract())
    return [text.removeprefix(f"{path}:").partition(": ")[2] for text in found]


def test_the_project_keeps_to_the_table() -> None:
    assert lint(project_files(), Contract()) == []


def test_the_backend_is_seen() -> None:
    files = {path: source for path, source in project_files().items() if path.startswith(BACKEND)}
    used = used_symbols(files, Contract())
    names = ("builder.BuildConfig", "models.LLaMAForCausalLM", "bindings.executor.Request", "LLM")
    assert {f"tensorrt_llm.{name}" for name in names} <= used, used


@pytest.mark.parametrize(
    "body",
    [
        f"{EXECUTOR}\nc = trt.ExecutorConfig(max_batch_size=4)\nc.kv_cache_config.enable_block_reuse = False",
        f"{EXECUTOR}\nwith trt.Executor('a', trt.ModelType.DECODER_ONLY, c) as e:\n    e.await_responses(timeout=t)",
        f"{EXECUTOR}\nfor r in trt.Executor('a', b, c).await_responses(3):\n    r.result.output_token_ids[0]",
        "import tensorrt_llm\ntensorrt_llm.LLM(model='x', max_batch_size=3).generate_async(p, s).result(timeout=1)",
        f"{BUILD}\nb = BuildConfig(max_seq_len=3)\nb.plugin_config.gemm_plugin = 'auto'",
        f"{EXECUTOR}\nreturn [r.error_msg for r in trt.Executor(a, b, c).await_responses() if r.has_error()]",
        f"{EXECUTOR}\ntrt.Request(ids, 3, **values)",
        "x = other.SamplingConfig(top_kk=1)",
        "from tensorrt_llm._torch.models.modeling_llama import LlamaForCausalLM\n"
        "class A(LlamaForCausalLM):\n    def g(self):\n        return self.anything.at_all",
    ],
)
def test_correct_use_passes(body: str) -> None:
    assert findings(body) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("import tensorrt_llm.runtime", "tensorrt_llm.runtime is not in the contract table"),
        ("import tensorrt_llm\ntensorrt_llm.ModelRunner", "tensorrt_llm.ModelRunner is not in the contract table"),
        ("from tensorrt_llm.builder import Builder", "tensorrt_llm.builder.Builder is not in the contract table"),
        (f"{BUILD} as B\nB(max_multimodal_len=3)", "'max_multimodal_len'"),
        (f"{EXECUTOR}\ntrt.SamplingConfig(top_kk=1)", "'top_kk'"),
        (f"{EXECUTOR}\ntrt.Request([1])", "missing a required argument: 'max_tokens'"),
        (f"{EXECUTOR}\ntrt.Request([1], 2, True)", "too many positional arguments"),
        (f"{EXECUTOR}\ntrt.Request(**values, max_token=2)", "'max_token'"),
        (f"{EXECUTOR}\ntrt.ModelType.DECODER", "ModelType.DECODER is not in the contract table"),
        (f"{EXECUTOR}\ne = trt.Executor(a, b, c)\ne.await_response()", "Executor.await_response is not in the"),
        (f"{EXECUTOR}\ne = trt.Executor(a, b, c)\ne.await_responses(time=1)", "'time'"),
        (f"{EXECUTOR}\nfor r in trt.Executor(a, b, c).await_responses():\n    r.results", "Response.results is not"),
        (f"{EXECUTOR}\n[r.result.tokens for r in trt.Executor(a, b, c).await_responses()]", "Result.tokens is not"),
        (f"{EXECUTOR}\nc = trt.ExecutorConfig()\nc.kv_cache_config.block_reuse = False", "block_reuse is set"),
        (f"{EXECUTOR}\nr = trt.Request([1], 2)\nr.max_tokens = 3", "Request.max_tokens is set"),
        (
            f"{BUILD}\nb = BuildConfig()\nb.plugin_config.gemm = 'auto'",
            "gemm is set",
        ),
        (f"{EXECUTOR}\nx = g(trt.SamplingConfig(k=1))", "'k'"),
        (f"{EXECUTOR}\nlambda: trt.SamplingConfig(k=1)", "'k'"),
        (f"{EXECUTOR}\nself.e = trt.Executor(a, b, c)\nself.e.stop()", "Executor.stop is not in the contract table"),
        ("import importlib\nimportlib.import_module('tensorrt_llm').Nothing", "tensorrt_llm.Nothing is not"),
        (
            f"{EXECUTOR}\ng(trt.Executor(a, b, c))\ndef g(e):\n    e.stop()",
            "Executor.stop is not in the contract table",
        ),
        (f"{EXECUTOR}\na, b = 1, trt.FinishReason\nb.END", "FinishReason.END is not in the contract table"),
        ("from tensorrt_llm.models import LLaMAForCausalLM as L\nL.quantize('a', 'b', calib_size=3)", "'calib_size'"),
        (f"{EXECUTOR}\ndef g(e: trt.Executor):\n    e.stop()", "Executor.stop is not in the contract table"),
    ],
)
def test_violations_are_found(body: str, expected: str) -> None:
    (found,) = findings(body)
    assert expected in found


@pytest.mark.parametrize("path", ["recap_fast/pipeline/pipeline.py", "benchmarks/x.py", f"{BACKEND}engine.py"])
@pytest.mark.parametrize("body", ["import tensorrt_llm", "__import__('tensorrt_llm')", EXECUTOR])
def test_only_the_two_flows_import_it(path: str, body: str) -> None:
    (found,) = findings(body, path)
    assert "tensorrt_llm is imported outside" in found
    (found,) = findings("pass", path, head=f"{body}\n")
    assert "tensorrt_llm is imported outside" in found


@pytest.mark.parametrize(
    "head",
    [
        "from recap_fast.generate.tensorrt_backend.trt_flow import TrtSession",
        "from recap_fast.generate.tensorrt_backend import build, pytorch_flow",
        "import recap_fast.generate.tensorrt_backend.trt_flow",
        "class A:\n    from recap_fast.generate.tensorrt_backend import trt_flow",
    ],
)
def test_the_flows_are_imported_late(head: str) -> None:
    path = f"{BACKEND}engine.py"
    (found,) = findings("pass", path, head=f"{head}\n")
    assert "is imported as the module loads" in found
    typing = f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {head}\n"
    if not head.startswith("class"):
        assert findings(head, path) == findings("pass", path, head=typing) == []


def test_annotations_are_known() -> None:
    head = f"{EXECUTOR}\n"
    (found,) = findings("def g(e: 'trt.Executor'): e.stop()", head=head)
    assert "Executor.stop" in found


def test_attributes_and_functions_are_known_across_functions_and_files() -> None:
    first = f"def open_it():\n    {EXECUTOR}\n    return trt.Executor(a, b, c)\n"
    second = (
        "class A:\n"
        "    def stop(self): self.running.stop()\n"
        "    def start(self): self.running = open_it()\n"
        "def g(): return open_it().enqueue(1)\n"
    )
    third = "class A:\n    def stop(self): self.running.stop()\n"
    found = lint({DOORS[0]: first, DOORS[1]: second, "recap_fast/other.py": third}, Contract())
    assert [text.split(" ")[:2] for text in found] == [
        [f"{DOORS[1]}:2:", "tensorrt_llm.bindings.executor.Executor.stop"],
        [f"{DOORS[1]}:4:", "tensorrt_llm.bindings.executor.Executor.enqueue"],
    ]
