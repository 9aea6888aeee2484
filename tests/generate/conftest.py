"""C++ operations that are not the installed ones, and those of every level of instructions that the processor has."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support import built  # noqa: F401 - before the modules that it may replace

from recap_fast.generate.ops import cpp

LEVELS = cpp.kernels.kernel_levels()


@pytest.fixture(scope="module", params=LEVELS)
def kernel_level(request: Any) -> Iterator[str]:
    """Each in turn; the best one again for the tests after these."""
    cpp.kernels.use_kernels(request.param)
    yield request.param
    cpp.kernels.use_kernels(LEVELS[0])


@pytest.fixture
def same_threads() -> Iterator[None]:
    """As many threads of torch as before for the tests after it."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)
