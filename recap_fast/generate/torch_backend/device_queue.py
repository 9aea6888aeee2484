"""The device's queue as the fixed runner sees it: CUDA's streams, graphs and events, or at once on the host.

On a GPU one stream computes and one copies pixels. The host's queue serves to test the runner.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

WARM_UPS = 2
"""Runs before a capture: kernels are compiled and libraries choose theirs."""


class Moment(Protocol):
    """A point in a device's queue: `torch.cuda.Event`, or that of a device which is never behind."""

    def synchronize(self) -> None: ...
    def elapsed_time(self, end: Any, /) -> float: ...


@dataclass(frozen=True, slots=True)
class _HostMoment:
    seconds: float

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "_HostMoment", /) -> float:
        return 1e3 * (end.seconds - self.seconds)


class HostQueue:
    """Where work is put. On the host it is done at once, and nothing is ever on its way."""

    def capture(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """What runs it again, and returns its result, always the same tensor on a GPU."""
        return compute

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Around what is put behind all that was computed before."""
        return contextlib.nullcontext()

    def copying(self) -> contextlib.AbstractContextManager[None]:
        """Around copies of pixels to the staging buffer, once that has been read."""
        return contextlib.nullcontext()

    def wait_for_pixels(self) -> None:
        """What is computed next has the pixels."""

    def release_staging(self) -> None:
        """What was computed last has read the staging buffer."""

    def mark(self) -> Moment:
        """This moment between two computations."""
        return _HostMoment(time.perf_counter())


class CudaQueue(HostQueue):
    """The same on a GPU."""

    def __init__(self, device: torch.device):
        self._device = device
        self._compute, self._copy = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
        self._sent, self._taken = (torch.cuda.Event() for _ in range(2))  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        self._compute.wait_stream(torch.cuda.current_stream(self._device))  # weights and inputs were put there
        with self.computing():
            for _ in range(WARM_UPS):
                compute()
        torch.cuda.synchronize(self._device)
        # DALI's threads may call CUDA meanwhile: it is this thread alone that must not
        with torch.cuda.graph(graph, pool=self._pool, stream=self._compute, capture_error_mode="thread_local"):
            result = compute()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._compute):
            yield

    @contextlib.contextmanager
    def copying(self) -> Iterator[None]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._copy):
            self._copy.wait_event(self._taken)
            yield
            self._sent.record(self._copy)

    def wait_for_pixels(self) -> None:
        self._compute.wait_event(self._sent)

    def release_staging(self) -> None:
        self._taken.record(self._compute)

    def mark(self) -> Moment:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._compute)
        return event
