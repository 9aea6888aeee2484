"""The runner of GPUs: fixed shapes and constant addresses, two CUDA graphs, and a host that never waits."""

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recap_fast.arrow_core import core
from recap_fast.generate.torch_backend.ops import Rows
from recap_fast.generate.torch_backend.runner import Outcome, PromptShape
from recap_fast.generate.torch_backend.scheduler import Launch
from recap_fast.generate.torch_backend.step import Joining, Step

# Letters: k images that fit a prefill, S width of their text, B slots.

WARM_UPS = 2
"""Runs before a capture: kernels are compiled and libraries choose theirs."""


class FixedRunner:
    """Computes k prompts and a row for each slot in every step, or the slots' rows alone, whatever there is to do.

    Prompts that are missing go to the slot that is nobody's, idle slots to the idle position. Inputs go through two
    sets of pinned buffers, pixels on a stream of their own, and tokens are read when the next step is on its way. On a
    CPU, where this serves to be tested, the same happens without graphs, streams and pinned memory.
    """

    lag = 1

    def __init__(self, step: Step, shape: PromptShape, num_slots: int, prefill_images: int, *, sampled: bool):
        self._step, self._shape, self._num_slots = step, shape, num_slots
        self._num_images, self._sampled = prefill_images, sampled
        device = step.cache.data.device
        self._queue: _Queue = _CudaQueue(device) if device.type == "cuda" else _HostQueue()
        width = shape.max_text_tokens
        self._host = [_Buffers(prefill_images, width, num_slots, shape.image_size) for _ in range(2)]
        self._inputs = _Buffers(prefill_images, width, num_slots, shape.image_size, device)
        self._staging = torch.zeros_like(self._inputs.pixels)
        self._all_slots = torch.arange(num_slots, device=device)
        self._pending: deque[_Pending] = deque()
        self._num_started = 0
        self._fill(self._host[0], None, None)
        self._inputs.integers.copy_(self._host[0].integers)
        self._replay = [self._queue.capture(functools.partial(self._compute, mixed)) for mixed in (False, True)]
        self._last_end = self._queue.mark()

    def start(self, launch: Launch, noise: NDArray[np.float32] | None) -> None:
        """Puts copies and computation into the device's queue."""
        host, mixed = self._host[self._num_started % 2], len(launch.requests) > 0
        self._num_started += 1  # nobody reads these buffers any more: the step before the last has finished
        self._fill(host, launch, noise)
        if mixed:
            self._send_pixels(host, launch)
        with self._queue.computing():
            if mixed:
                self._queue.wait_for_pixels()
                self._inputs.pixels.copy_(self._staging)
                self._queue.release_staging()
            self._inputs.integers.copy_(host.integers, non_blocking=True)
            self._inputs.noise.copy_(host.noise, non_blocking=True)
            begin = self._queue.mark()
            tokens = self._replay[mixed]()
            host.tokens[: len(tokens)].copy_(tokens, non_blocking=True)
            end = self._queue.mark()
        self._pending.append(_Pending(launch, host, self._last_end, begin, end))
        self._last_end = end

    def finish(self) -> Outcome:
        """Waits for the oldest step and reads its tokens."""
        pending = self._pending.popleft()
        pending.end.synchronize()
        launch, n = pending.launch, len(pending.launch.requests)
        rows = np.concatenate([np.arange(n), (self._num_images if n else 0) + launch.slots[launch.running]])
        tokens = pending.host.tokens.numpy()[rows].astype(np.int32)
        gap_s = pending.previous_end.elapsed_time(pending.begin) / 1e3
        return Outcome(tokens, pending.begin.elapsed_time(pending.end) / 1e3, max(0.0, gap_s))

    def _compute(self, mixed: bool) -> Tensor:
        """What is captured: reads the inputs, returns the next tokens [k + B], or [B] of decode rows alone."""
        inputs = self._inputs
        running = Rows(self._all_slots, inputs.positions)
        noise = (inputs.noise if mixed else inputs.noise[self._num_images :]) if self._sampled else None
        joining = Joining(inputs.pixels, inputs.text_ids, inputs.slots, inputs.last_rows, inputs.last_positions)
        return self._step.run(joining if mixed else None, running, noise)

    def _fill(self, host: "_Buffers", launch: Launch | None, noise: NDArray[np.float32] | None) -> None:
        """Writes all inputs of a step but the pixels; without a launch, those of a step with nothing to do."""
        requests = () if launch is None else launch.requests
        n, shape = len(requests), self._shape
        packed = core.pack_prompts(
            [r.text_ids for r in requests],
            shape.num_image_tokens,
            shape.max_text_tokens,
            prefix_length=shape.num_prefix,
            rows=self._num_images,
        )
        host.text_ids.numpy()[:] = packed.text_ids
        host.last_rows.numpy()[:] = packed.last_rows
        host.last_positions.numpy()[:] = packed.positions - 1
        slots, positions = host.slots.numpy(), host.positions.numpy()
        slots[:], positions[:] = self._num_slots, self._step.cache.idle_position
        if launch is None:
            return
        slots[:n] = launch.slots[:n]
        positions[launch.slots[launch.running]] = launch.positions[launch.running]
        if noise is not None:
            places = np.concatenate([np.arange(n), self._num_images + launch.slots[launch.running]])
            host.noise.numpy()[places] = noise

    def _send_pixels(self, host: "_Buffers", launch: Launch) -> None:
        """Copies the pixels to the device while the step before is computed; from the device itself if they are there.

        The launch keeps the requests, and they their pixels, until the step has finished.
        """
        with self._queue.copying():
            for place, pinned, request in zip(self._staging, host.pixels, launch.requests, strict=False):
                pixels = request.pixels
                if isinstance(pixels, np.ndarray):
                    pinned.numpy()[:] = pixels
                    pixels = pinned
                place.copy_(pixels, non_blocking=True)


class _Buffers:
    """The inputs of a step, and on the host where its tokens go. `device` None is the host: pinned if there is a GPU.

    All integers lie in one tensor, so that one copy takes them.
    """

    def __init__(
        self, num_images: int, width: int, num_slots: int, image_size: int, device: torch.device | None = None
    ):
        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(
                shape, dtype=dtype, device=device, pin_memory=device is None and torch.cuda.is_available()
            )

        self.pixels = zeros(num_images, 3, image_size, image_size, dtype=torch.uint8)
        self.noise = zeros(num_images + num_slots, dtype=torch.float32)
        self.tokens = zeros(num_images + num_slots, dtype=torch.int64)
        sizes = [num_images * width, num_images, num_images, num_images, num_slots]
        self.integers = zeros(sum(sizes), dtype=torch.int64)
        text_ids, self.slots, self.last_rows, self.last_positions, self.positions = torch.split(self.integers, sizes)
        self.text_ids = text_ids.view(num_images, width)


@dataclass(frozen=True, slots=True)
class _Moment:
    """`torch.cuda.Event` of a device that is never behind."""

    seconds: float

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "_Moment", /) -> float:
        return 1e3 * (end.seconds - self.seconds)


@dataclass(frozen=True, slots=True)
class _Pending:
    launch: Launch
    host: _Buffers
    previous_end: Any
    """A point in the device's queue, torch.cuda.Event or _Moment, as the next two."""
    begin: Any
    end: Any


class _Queue(Protocol):
    """Where work is put: one stream that computes and one that copies pixels."""

    def capture(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """What runs it again, and returns its result, always the same tensor on a GPU."""

    def computing(self) -> contextlib.AbstractContextManager[None]: ...
    def copying(self) -> contextlib.AbstractContextManager[None]: ...
    def wait_for_pixels(self) -> None: ...
    def release_staging(self) -> None: ...
    def mark(self) -> Any: ...


class _CudaQueue:
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

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._compute)
        return event


class _HostQueue:
    def capture(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return compute

    def computing(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def copying(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def wait_for_pixels(self) -> None:
        pass

    def release_staging(self) -> None:
        pass

    def mark(self) -> _Moment:
        return _Moment(time.perf_counter())
