"""A way to test C++ operations that are not the installed ones."""

import importlib.util
import os
import sys

if module_file := os.environ.get("RECAP_FAST_CPU_OPS"):  # set by ctest: a build with sanitizers, say
    spec = importlib.util.spec_from_file_location("recap_fast._cpu_ops", module_file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["recap_fast._cpu_ops"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["recap_fast._cpu_ops"])
