"""Builds the native modules from the project's own source, beside the Python files, with what is installed already.

A plain CMake build: no package index, no build backend, nothing installed. Where they load, nothing is done.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from suite.setting import ROOT, Findings, Setting

DEPENDENCIES = ("click", "fsspec", "numpy", "PIL", "pyarrow", "safetensors", "tokenizers", "torch", "transformers")
TO_BUILD = ("cmake", "pybind11")


def run(setting: Setting) -> Findings:
    """Builds if need be; says what is missing."""
    missing = [name for name in DEPENDENCIES if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(f"these packages are missing: {', '.join(missing)}")
    found = setting.find("build")
    found.add("native modules", provide(setting))
    found.add("CUDA kernels", cuda_kernels())
    return found


def provide(setting: Setting) -> str:
    """Makes the native modules loadable and says how: there already, from a folder of the setting, or built."""
    target = ROOT / "recap_fast"
    if why_not() is None:
        return "there already"
    for folder in map(Path, setting.native):
        copied = [Path(shutil.copy(module, target)) for module in sorted(folder.glob("_*.so"))]
        if copied and why_not() is None:
            return f"from {folder.name}"
        for module in copied:
            module.unlink()
    start = time.perf_counter()
    built = build(setting.work / "build", target)
    if reason := why_not():
        raise RuntimeError(f"{', '.join(p.name for p in built)}: built, and does not load: {reason}")
    return f"built in {time.perf_counter() - start:.0f} s"


def cuda_kernels() -> str:
    """Whether the CUDA C++ kernels were built and load. Nothing fails without them: Triton's run instead."""
    error = _import("from recap_fast import _cuda_ops")
    if error is None:
        return "there"
    return "none" if "cannot import name '_cuda_ops'" in error else "do not load"


def why_not() -> str | None:
    """Why a fresh interpreter cannot import the native modules; None if it can."""
    return _import("from recap_fast.arrow_core import core; from recap_fast import _cpu_ops")


def _import(code: str) -> str | None:
    """The last words of a fresh interpreter that fails to run this code; None if it does not fail."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    return done.stderr[-300:] if done.returncode else None


def build(folder: Path, target: Path) -> list[Path]:
    """Builds in `folder`, copies the modules to `target`, returns them. Raises RuntimeError with the last messages."""
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if cmake is None or importlib.util.find_spec("pybind11") is None:
        raise RuntimeError(f"to build from source there must be {' and '.join(TO_BUILD)}")
    jobs = str(len(os.sched_getaffinity(0)))
    settings = [f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release"]
    settings.append("-DRECAP_FAST_CUDA=OFF")  # a card's time is too dear for nvcc, and Triton's kernels serve
    for command in ([cmake, "-S", ROOT, "-B", folder, *settings], [cmake, "--build", folder, "--parallel", jobs]):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return [Path(shutil.copy(module, target)) for module in sorted(folder.glob("_*.so"))]
