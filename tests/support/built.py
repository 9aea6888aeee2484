"""The C++ modules of a build, a build with sanitizers say, instead of the installed ones: import this before these.

ctest names the files in RECAP_FAST_CORE and RECAP_FAST_CPU_OPS.
"""

import importlib.util
import os
import sys

import pyarrow  # noqa: F401 - before the core, as recap_fast/arrow_core.py does it

for variable, name in (("RECAP_FAST_CORE", "recap_fast._core"), ("RECAP_FAST_CPU_OPS", "recap_fast._cpu_ops")):
    if file := os.environ.get(variable):
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
