"""The C++ modules of a build, a build with sanitizers say, instead of the installed ones: import this before these.

ctest names the files in RECAP_FAST_CORE, RECAP_FAST_CPU_OPS and RECAP_FAST_CUDA_OPS.
"""

import importlib.util
import os
import sys

import pyarrow  # noqa: F401 - before the core, as recap_fast/arrow_core.py does it

for module in ("_core", "_cpu_ops", "_cuda_ops"):
    if file := os.environ.get(f"RECAP_FAST{module.upper()}"):
        name = f"recap_fast.{module}"
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
