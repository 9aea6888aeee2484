"""Puts the fake together as modules, and puts these where `import tensorrt_llm` finds them."""

import contextlib
import functools
import importlib
import os
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from trtllm_fake.contract import Contract, Library, make_class, make_enum, make_function
from trtllm_fake.faults import Faults

NAME = "tensorrt_llm"
VERSIONS = {"tensorrt": "10.14.1", "nvidia-modelopt": "0.37.0"}
"""Distributions that are there beside the library, for what a manifest records."""
STARTER = '''"""The fake of recap-fast's tests."""
import sys

sys.path.append({tests!r})
from trtllm_fake.package import install

install({faults!r})
'''


class StrictModule(types.ModuleType):
    """A module that has what the table says and nothing else."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self.__name__}.{name} is not in the contract table")


@dataclass
class Fake:
    """The package of this process, for what a test asks of it."""

    folder: Path
    faults: Faults

    @property
    def library(self) -> Library:
        """Raises KeyError where nothing has imported tensorrt_llm yet."""
        library: Library = sys.modules[NAME].__dict__["__library__"]
        return library

    def calls(self, symbol: str) -> list[dict[str, Any]]:
        """The arguments of every call of a constructor, a function or a `Class.method`, defaults among them."""
        full = symbol if symbol.startswith(NAME) else f"{NAME}.{symbol}"
        return [arguments for name, arguments in self.library.calls if name == full]


@contextlib.contextmanager
def installed(folder: Path, faults: Faults | None = None) -> Iterator[Fake]:
    """`import tensorrt_llm` gives the fake within this context, in this process; `folder` is for its files.

    Afterwards everything is as before: sys.path, sys.modules, and the environment.
    """
    assert NAME not in sys.modules, f"{NAME} is imported already"
    environment = dict(os.environ)
    fake = Fake(write_site(folder, faults), faults or Faults())
    paths = list(sys.path)
    sys.path.insert(0, str(fake.folder))
    importlib.invalidate_caches()
    try:
        yield fake
    finally:
        sys.path[:] = paths
        for name in [m for m in sys.modules if m.split(".")[0] == NAME]:
            del sys.modules[name]
        importlib.invalidate_caches()
        os.environ.clear()
        os.environ.update(environment)


def write_site(folder: Path, faults: Faults | None = None, startup: str = "") -> Path:
    """Writes a folder for PYTHONPATH: the package, and metadata of it and of what comes with it.

    `startup` is Python that every process runs as it starts (sitecustomize.py), before the package is imported.
    """
    faults = faults or Faults()
    (folder / NAME).mkdir(parents=True, exist_ok=True)
    tests = str(Path(__file__).parent.parent)
    starter = STARTER.format(tests=tests, faults=faults.dumps())
    (folder / NAME / "__init__.py").write_text(starter, encoding="utf-8")
    for name, version in {"tensorrt-llm": faults.version, **VERSIONS}.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    if startup:
        (folder / "sitecustomize.py").write_text(startup, encoding="utf-8")
    return folder


def install(faults_text: str) -> None:
    """Replaces the module that is just being imported, and adds all others. Called by the written package."""
    faults = Faults.loads(faults_text)
    library = Library(Contract(faults.version))
    fill(library, faults)
    modules = {}
    for name in sorted(library.contract.modules()):
        modules[name] = StrictModule(name)
        modules[name].__path__ = []
        modules[name].__spec__ = ModuleSpec(name, None, is_package=True)
        if "." in name:
            setattr(modules[name.rpartition(".")[0]], name.rpartition(".")[2], modules[name])
    for symbol, made in library.objects.items():
        setattr(modules[symbol.rpartition(".")[0]], symbol.rpartition(".")[2], made)
    modules[NAME].__dict__["__library__"] = library
    sys.modules.update(modules)


def fill(library: Library, faults: Faults) -> None:
    """Makes the object of every symbol."""
    contract = library.contract
    behaviours = make_behaviours(library, faults)
    for symbol, entry in contract.entries.items():
        if entry["kind"] == "value":
            library.objects[symbol] = faults.version
        elif entry["kind"] == "enum":
            library.objects[symbol] = make_enum(symbol, entry)
        elif entry["kind"] == "exception":
            library.objects[symbol] = type(symbol.rpartition(".")[2], (RuntimeError,), {})
        elif entry["kind"] == "base":
            library.objects[symbol] = behaviours[symbol]
        elif entry["kind"] == "function":
            library.objects[symbol] = make_function(library, symbol, behaviours[symbol])
        elif entry["kind"] in ("class", "model"):
            dropped = frozenset(faults.drop) & frozenset(entry.get("fields", ()))
            library.objects[symbol] = make_class(library, symbol, behaviours.get(symbol), dropped)
    for symbol, entry in contract.entries.items():
        if entry["kind"] == "alias":
            library.objects[symbol] = library.objects[entry["of"]]


def make_behaviours(library: Library, faults: Faults) -> dict[str, Any]:
    """What stands behind the symbols that do something."""
    from trtllm_fake import engine_flow, executor, pytorch_flow, torch_models

    registries = pytorch_flow.Registries()
    registries.models["LlamaForCausalLM"] = torch_models.LlamaForCausalLM
    common = {"library": library, "faults": faults}
    engine = type("Engine", (engine_flow.Engine,), common)
    torch = f"{NAME}._torch.models"
    behaviours = {
        f"{torch}.modeling_llama.LlamaForCausalLM": torch_models.LlamaForCausalLM,
        f"{torch}.modeling_utils.register_auto_model": registries.register_auto_model,
        f"{NAME}.inputs.registry.register_input_processor": registries.register_input_processor,
        f"{NAME}.inputs.registry.BaseMultimodalInputProcessor": torch_models.BaseMultimodalInputProcessor,
        f"{NAME}.LLM": type("Llm", (pytorch_flow.Llm,), {**common, "registries": registries}),
        f"{NAME}.llmapi.RequestOutput": pytorch_flow.Output,
        f"{NAME}.models.LLaMAForCausalLM": engine_flow.Model,
        f"{NAME}.builder.Engine": engine,
        f"{NAME}.bindings.executor.Executor": type("Executor", (executor.Executor,), common),
        f"{NAME}.bindings.executor.Response": executor.Response,
        f"{NAME}.bindings.executor.PromptTuningConfig": executor.PromptTuningConfig,
    }
    for name in ("fuse_input_embeds", "get_multimodal_embeddings", "find_input_mm_embeds"):
        behaviours[f"{torch}.modeling_multimodal_utils.{name}"] = getattr(torch_models, name)

    @functools.wraps(engine_flow.build)
    def build(model: Any, build_config: Any) -> Any:
        fields = library.contract.entry(f"{NAME}.builder.BuildConfig")["fields"]
        return engine_flow.build(library.objects[f"{NAME}.builder.Engine"], engine, list(fields), model, build_config)

    return {**behaviours, f"{NAME}.builder.build": build}
