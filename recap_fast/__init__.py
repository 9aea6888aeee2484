"""recap-fast: shards of images in, Parquet captions out.

    import recap_fast

    with recap_fast.Captioner.open("engine") as captioner:
        rows = captioner.caption(["cat.jpg", "dog.jpg"])

    result = recap_fast.run("engine", "/data/{00000..00099}.tar", "captions")

Importing the package loads nothing heavy: each name below is loaded where it is first used.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

from recap_fast.cpus import shorten_waits
from recap_fast.version import __version__

if TYPE_CHECKING:
    from recap_fast.api import run, verify
    from recap_fast.build.engine_directory import build_engine
    from recap_fast.captioner.captioner import Caption, Captioner, PromptCaption
    from recap_fast.errors import ConfigError, EngineError, ExitCode, RecapError
    from recap_fast.launch.result import RunResult
    from recap_fast.write.verify import Verdict

__all__ = [
    "Caption",
    "Captioner",
    "ConfigError",
    "EngineError",
    "ExitCode",
    "PromptCaption",
    "RecapError",
    "RunResult",
    "Verdict",
    "__version__",
    "build_engine",
    "run",
    "verify",
]
_MODULES = {
    "api": ("run", "verify"),
    "build.engine_directory": ("build_engine",),
    "captioner.captioner": ("Caption", "Captioner", "PromptCaption"),
    "errors": ("ConfigError", "EngineError", "ExitCode", "RecapError"),
    "launch.result": ("RunResult",),
    "write.verify": ("Verdict",),
}
_HOMES = {name: f"recap_fast.{module}" for module, names in _MODULES.items() for name in names}

shorten_waits()  # before torch is loaded
logging.getLogger("recap_fast").addHandler(logging.NullHandler())  # silent unless the program wants to hear of it


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'recap_fast' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
