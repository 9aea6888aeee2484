"""The runner of GPUs: fixed shapes and constant addresses, two CUDA graphs, and a host that never waits."""

import functools
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recap_fast.arrow_core import core
from recap_fast.generate.ops import Rows
from recap_fast.generate.spec import Sizes, SlotShape
from recap_fast.generate.torch_backend.device_queue import CudaQueue, HostQueue, Moment
from recap_fast.generate.torch_backend.runner import Outcome
from recap_fast.generate.torch_backend.scheduler import Launch
from recap_fast.generate.torch_backend.step import Joining, Step

# Letters: k images that fit a prefill, S width of their text, B slots.


class FixedRunner:
    """Computes k prompts and a row for each slot in every step, or the slots' rows alone, whatever there is to do.

    Prompts that are missing go to the slot that is nobody's, idle slots to the idle position. Inputs go through two
    sets of pinned buffers, pixels on a stream of their own, and tokens are read when the next step is on its way. On a
    CPU, where this serves to be tested, the same happens without graphs, streams and pinned memory.
    """

    lag = 1
    has_fixed_shapes = True

    def __init__(self, step: Step, shape: SlotShape, sizes: Sizes, image_size: int):
        self._step, self._shape = step, shape
        self._num_slots, self._num_images = sizes.num_slots, sizes.prefill_images
        device = step.cache.data.device
        self._queue = CudaQueue(device) if device.type == "cuda" else HostQueue()
        self._host = [_Buffers(shape, sizes, image_size) for _ in range(2)]
        self._inputs = _Buffers(shape, sizes, image_size, device)
        self._staging = torch.zeros_like(self._inputs.pixels)
        self._all_slots = torch.arange(self._num_slots, device=device)
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
        noise = inputs.noise if mixed else inputs.noise[self._num_images :]
        joining = Joining(inputs.pixels, inputs.text_ids, inputs.slots, inputs.last_rows)
        return self._step.run(joining if mixed else None, running, noise)

    def _fill(self, host: "_Buffers", launch: Launch | None, noise: NDArray[np.float32] | None) -> None:
        """Writes all inputs of a step but the pixels; without a launch, those of a step with nothing to do."""
        requests = () if launch is None else launch.requests
        n, shape = len(requests), self._shape
        text_ids, last_rows = core.pack_prompts(
            [r.text_ids for r in requests], shape.num_image_tokens, shape.max_text_tokens, rows=self._num_images
        )
        host.text_ids.numpy()[:] = text_ids
        host.last_rows.numpy()[:] = last_rows
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

    def __init__(self, shape: SlotShape, sizes: Sizes, image_size: int, device: torch.device | None = None):
        num_images, num_slots, width = sizes.prefill_images, sizes.num_slots, shape.max_text_tokens

        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(
                shape, dtype=dtype, device=device, pin_memory=device is None and torch.cuda.is_available()
            )

        self.pixels = zeros(num_images, 3, image_size, image_size, dtype=torch.uint8)
        self.noise = zeros(num_images + num_slots, dtype=torch.float32)
        self.tokens = zeros(num_images + num_slots, dtype=torch.int64)
        counts = [num_images * width, num_images, num_images, num_slots]
        self.integers = zeros(sum(counts), dtype=torch.int64)
        text_ids, self.slots, self.last_rows, self.positions = torch.split(self.integers, counts)
        self.text_ids = text_ids.view(num_images, width)


@dataclass(frozen=True, slots=True)
class _Pending:
    launch: Launch
    host: _Buffers
    previous_end: Moment
    begin: Moment
    end: Moment
