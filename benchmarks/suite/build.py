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
        raise SystemExit(f"these packages are missing: {', '.join(missing)}")
    found, start = setting.find("build"), time.perf_counter()
    if loads():
        found.add("native modules", "there already")
    else:
        built = build(setting.work / "build", ROOT / "recap_fast")
        if not loads():
            raise SystemExit(f"{', '.join(p.name for p in built)}: built, and does not load")
        found.add("native modules", f"built in {time.perf_counter() - start:.0f} s")
    return found


def loads() -> bool:
    """Whether a fresh interpreter can import the native modules."""
    code = "from recap_fast.arrow_core import core; from recap_fast import _cpu_ops"
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def build(folder: Path, target: Path) -> list[Path]:
    """Builds in `folder`, copies the modules to `target` and returns them. Raises SystemExit with the last messages."""
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if cmake is None or importlib.util.find_spec("pybind11") is None:
        raise SystemExit(f"to build from source there must be {' and '.join(TO_BUILD)}")
    jobs = str(len(os.sched_getaffinity(0)))
    settings = [f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release"]
    for command in ([cmake, "-S", ROOT, "-B", folder, *settings], [cmake, "--build", folder, "--parallel", jobs]):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return [Path(shutil.copy(module, target)) for module in sorted(folder.glob("_*.so"))]
