"""C++ operations that are not the installed ones, and those of every level of instructions that the processor has."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

if module_file := os.environ.get("RECAP_FAST_CPU_OPS"):  # set by ctest: a build with sanitizers, say
    spec = importlib.util.spec_from_file_location("recap_fast._cpu_ops", module_file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["recap_fast._cpu_ops"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["recap_fast._cpu_ops"])

from recap_fast.generate.ops import cpp

LEVELS = cpp.kernels.kernel_levels()


@pytest.fixture(scope="module", params=LEVELS)
def kernel_level(request: Any) -> Iterator[str]:
    """Each in turn; the best one again for the tests after these."""
    cpp.kernels.use_kernels(request.param)
    yield request.param
    cpp.kernels.use_kernels(LEVELS[0])
