"""Puts the fake where `import tensorrt_llm` finds it, in this process."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from support.tensorrt_fake import builder, executor
from support.tensorrt_fake.strict import INSTALLED, Fake, Faults

NAME = "tensorrt_llm"
VERSIONS = {"tensorrt": "10.14.1", "nvidia-modelopt": "0.37.0"}
"""Distributions that are there beside the library, for what a manifest records."""
CONTENTS = {
    NAME: (),
    f"{NAME}.builder": (builder.BuildConfig, builder.build),
    f"{NAME}.models": (builder.LLaMAForCausalLM,),
    f"{NAME}.models.modeling_utils": (builder.QuantConfig,),
    f"{NAME}.quantization": (builder.QuantAlgo,),
    f"{NAME}.bindings": (),
    f"{NAME}.bindings.executor": (
        executor.Executor,
        executor.ExecutorConfig,
        executor.FinishReason,
        executor.KvCacheConfig,
        executor.ModelType,
        executor.OutputConfig,
        executor.PromptTuningConfig,
        executor.Request,
        executor.SamplingConfig,
    ),
}


@contextlib.contextmanager
def installed(folder: Path, faults: Faults | None = None) -> Iterator[Fake]:
    """`import tensorrt_llm` gives the fake within this context; `folder` gets the metadata of the distributions."""
    assert not INSTALLED, "one fake at a time"
    assert NAME not in sys.modules, f"{NAME} is imported already"
    fake = Fake(faults or Faults())
    for name, version in {"tensorrt-llm": fake.faults.version, **VERSIONS}.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    INSTALLED.append(fake)
    sys.path.insert(0, str(folder))
    for name, content in CONTENTS.items():
        module = sys.modules[name] = ModuleType(name)
        module.__path__, module.__spec__ = [], ModuleSpec(name, None, is_package=True)
        vars(module).update({made.__name__: made for made in content})
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    importlib.invalidate_caches()
    try:
        yield fake
    finally:
        INSTALLED.clear()
        sys.path.remove(str(folder))
        for name in CONTENTS:
            del sys.modules[name]
        importlib.invalidate_caches()
