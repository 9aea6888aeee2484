"""The runner of GPUs: fixed shapes and constant addresses, a CUDA graph for each kind of step, and a host that never
waits."""

import functools
from collections import deque
from dataclasses import dataclass
from enum import Enum

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
from recap_fast.generate.torch_backend.step import Branching, Joining, Step

# Letters: p prompts of a step of some kind, S width of their text, B slots.
NO_TEXT = np.zeros(1, np.int32)


class Kind(Enum):
    """What joins in a step."""

    NOTHING = 0
    IMAGES = 1
    BRANCHES = 2


class FixedRunner:
    """Computes a row for each slot in every step, and before them as many prompts as fit a step of this kind, whatever
    there is to do.

    Prompts that are missing go to the slot that is nobody's, idle slots to the idle position. Inputs go through two
    sets of pinned buffers, pixels on a stream of their own, and tokens are read when the next step is on its way. On a
    CPU, where this serves to be tested, the same happens without graphs, streams and pinned memory.
    """

    lag = 1
    has_fixed_shapes = True

    def __init__(self, step: Step, shape: SlotShape, sizes: Sizes, image_size: int, captions_per_image: int = 1):
        self._step, self._shape, self._num_slots = step, shape, sizes.num_slots
        self._num_prompts = {Kind.NOTHING: 0, Kind.IMAGES: sizes.prefill_images}
        if most_branches := sizes.most_branches(captions_per_image):
            self._num_prompts[Kind.BRANCHES] = most_branches
        device = step.cache.data.device
        self._queue = CudaQueue(device) if device.type == "cuda" else HostQueue()
        num_prompts = max(self._num_prompts.values())
        self._host = [_Buffers(shape, sizes, image_size, num_prompts) for _ in range(2)]
        self._inputs = _Buffers(shape, sizes, image_size, num_prompts, device)
        self._staging = torch.zeros_like(self._inputs.pixels)
        self._all_slots = torch.arange(self._num_slots, device=device)
        self._pending: deque[_Pending] = deque()
        self._num_started = 0
        self._fill(self._host[0], None, None)
        self._inputs.integers.copy_(self._host[0].integers)
        self._replay = {k: self._queue.capture(functools.partial(self._compute, k)) for k in self._num_prompts}
        self._last_end = self._queue.mark()

    def start(self, launch: Launch, noise: NDArray[np.float32] | None) -> None:
        """Puts copies and computation into the device's queue."""
        host, kind = self._host[self._num_started % 2], _kind(launch)
        self._num_started += 1  # nobody reads these buffers any more: the step before the last has finished
        self._fill(host, launch, noise)
        if kind == Kind.IMAGES:
            self._send_pixels(host, launch)
        with self._queue.computing():
            if kind == Kind.IMAGES:
                self._queue.wait_for_pixels()
                self._inputs.pixels.copy_(self._staging)
                self._queue.release_staging()
            self._inputs.integers.copy_(host.integers, non_blocking=True)
            self._inputs.noise.copy_(host.noise, non_blocking=True)
            begin = self._queue.mark()
            tokens = self._replay[kind]()
            host.tokens[: len(tokens)].copy_(tokens, non_blocking=True)
            end = self._queue.mark()
        self._pending.append(_Pending(launch, host, self._last_end, begin, end))
        self._last_end = end

    def finish(self) -> Outcome:
        pending = self._pending.popleft()
        pending.end.synchronize()
        tokens = pending.host.tokens.numpy()[self._rows(pending.launch)].astype(np.int32)
        gap_s = pending.previous_end.elapsed_time(pending.begin) / 1e3
        return Outcome(tokens, pending.begin.elapsed_time(pending.end) / 1e3, max(0.0, gap_s))

    def _compute(self, kind: Kind) -> Tensor:
        """What is captured: reads the inputs, returns the next tokens [p + B]."""
        inputs, p = self._inputs, self._num_prompts[kind]
        text_ids, slots, sources, last_rows = (
            x[:p] for x in (inputs.text_ids, inputs.slots, inputs.sources, inputs.last_rows)
        )
        joining: Joining | Branching | None = None
        if kind == Kind.IMAGES:
            joining = Joining(inputs.pixels, text_ids, slots, last_rows)
        elif kind == Kind.BRANCHES:
            joining = Branching(text_ids, slots, sources, last_rows)
        return self._step.run(joining, Rows(self._all_slots, inputs.positions), inputs.noise[: p + self._num_slots])

    def _rows(self, launch: Launch) -> NDArray[np.int64]:
        """The rows of its step that a launch is about: [n + B] of p + B."""
        return np.concatenate(
            [np.arange(len(launch.requests)), self._num_prompts[_kind(launch)] + launch.slots[launch.running]]
        )

    def _fill(self, host: "_Buffers", launch: Launch | None, noise: NDArray[np.float32] | None) -> None:
        """Writes all inputs of a step but the pixels; without a launch, those of a step with nothing to do."""
        slots, sources, positions = host.slots.numpy(), host.sources.numpy(), host.positions.numpy()
        slots[:] = sources[:] = self._num_slots
        positions[:] = self._step.cache.idle_position
        if launch is None:
            return
        n, p = len(launch.requests), self._num_prompts[_kind(launch)]
        if p:
            texts = [r.text_ids for r in launch.requests] + [NO_TEXT] * (p - n)
            num_image_tokens = 0 if launch.sources is not None else self._shape.num_image_tokens
            packed = core.pack_prompts(texts, num_image_tokens, self._shape.max_text_tokens)
            host.text_ids.numpy()[:p], host.last_rows.numpy()[:p] = packed
        slots[:n] = launch.slots[:n]
        if launch.sources is not None:
            sources[:n] = launch.sources
        positions[launch.slots[launch.running]] = launch.positions[launch.running]
        if noise is not None:
            host.noise.numpy()[self._rows(launch)] = noise

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


def _kind(launch: Launch) -> Kind:
    if launch.sources is not None:
        return Kind.BRANCHES
    return Kind.IMAGES if launch.requests else Kind.NOTHING


class _Buffers:
    """The inputs of a step, and on the host where its tokens go. `device` None is the host: pinned if there is a GPU.

    All integers lie in one tensor, so that one copy takes them.
    """

    def __init__(
        self,
        shape: SlotShape,
        sizes: Sizes,
        image_size: int,
        num_prompts: int,
        device: torch.device | None = None,
    ):
        num_slots, width = sizes.num_slots, shape.max_text_tokens

        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(
                shape, dtype=dtype, device=device, pin_memory=device is None and torch.cuda.is_available()
            )

        self.pixels = zeros(sizes.prefill_images, 3, image_size, image_size, dtype=torch.uint8)
        self.noise = zeros(num_prompts + num_slots, dtype=torch.float32)
        self.tokens = zeros(num_prompts + num_slots, dtype=torch.int64)
        counts = [num_prompts * width, num_prompts, num_prompts, num_prompts, num_slots]
        self.integers = zeros(sum(counts), dtype=torch.int64)
        text_ids, self.slots, self.sources, self.last_rows, self.positions = torch.split(self.integers, counts)
        self.text_ids = text_ids.view(num_prompts, width)


@dataclass(frozen=True, slots=True)
class _Pending:
    launch: Launch
    host: _Buffers
    previous_end: Moment
    begin: Moment
    end: Moment
