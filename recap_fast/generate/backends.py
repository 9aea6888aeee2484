"""Opens an engine directory with the backend that it was built for. Each backend is imported where it is opened."""

from pathlib import Path
from typing import get_args

from recap_fast.errors import ConfigError
from recap_fast.generate.engine import Engine, EngineOptions, SharedPrompt
from recap_fast.generate.spec import Backend, EngineSpec


def open_engine(folder: Path, spec: EngineSpec, options: EngineOptions, prompt: SharedPrompt) -> Engine:
    """Opens the engine in `folder` with the backend that engine.json names.

    Raises ConfigError where the backend, the device or the weights cannot be had.
    """
    if spec.backend == "torch":
        from recap_fast.generate.torch_backend.engine import TorchEngine

        return TorchEngine(folder, spec, options, prompt)
    if spec.backend == "tensorrt-llm":
        from recap_fast.generate.tensorrt_backend.engine import TensorRTEngine

        return TensorRTEngine(folder, spec, options, prompt)
    raise ConfigError(
        f"{folder}: backend {spec.backend!r} is not known to this version, which has: {', '.join(get_args(Backend))}."
    )
