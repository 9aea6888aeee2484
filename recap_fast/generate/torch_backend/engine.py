"""The torch engine, CPU and CUDA alike: one step that prefills new images and decodes running captions together.

Requests in, completions out (see generate/engine.py). The scheduler says what a step computes, the runner has the
device compute it, and its tokens go back to the scheduler: at once on a CPU, one step late on a GPU.
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recap_fast.errors import EngineError
from recap_fast.generate.device import device_name
from recap_fast.generate.engine import EngineOptions, Statistics, check_request
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.torch_backend.opening import open_device
from recap_fast.generate.torch_backend.runner import EagerRunner, Outcome
from recap_fast.generate.torch_backend.sampling import NOT_FINITE, uniforms
from recap_fast.generate.torch_backend.scheduler import Launch, Scheduler
from recap_fast.records import Completion, Request


class TorchEngine:
    """Implements `Engine` with static slots: prefix, image, text and caption of one request each."""

    def __init__(
        self,
        folder: Path,
        spec: EngineSpec,
        options: EngineOptions,
        prompt: PromptEncoder,
        *,
        fixed_shapes: bool | None = None,
    ):
        """`fixed_shapes`: steps of constant shape even on a CPU; None for GPUs only. Raises ConfigError."""
        self.spec, self._sampling = spec, options.sampling
        opened = open_device(folder, spec, options, prompt, fixed_shapes=fixed_shapes)
        self._device, self._runner, self._shape = opened.device, opened.runner, opened.shape
        self._step, self._fallbacks = opened.step, opened.fallbacks
        self.statistics = Statistics(startup_s=opened.startup_s)
        self._captions_per_image = options.captions_per_image
        self._scheduler = Scheduler(
            opened.sizes,
            opened.shape,
            spec.stop_ids,
            loop_stop=options.loop_stop,
            captions_per_image=options.captions_per_image,
        )
        self._launched: deque[tuple[Launch, bool]] = deque()
        """What is on its way, and whether the device had waited for input before it."""
        self._lacked_input = True

    @property
    def free_slots(self) -> int:
        return self._scheduler.free_slots

    def describe(self) -> str:
        slots = f"{self._scheduler.num_slots} slots, prefill batches of {self._scheduler.prefill_images}"
        at_once = min(self._captions_per_image, self._scheduler.num_slots)
        if at_once > 1:
            slots += f", up to {at_once} captions of an image at once"
        emulated = self.spec.precision == "fp8" and self._device.type == "cpu"
        precision = "fp8 (emulated)" if emulated else self.spec.precision
        parts = [f"torch {torch.__version__} on {device_name(self._device)}", precision, slots, *self._fallbacks]
        return ", ".join(parts)

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            check_request(request, self._shape)
        self._lacked_input |= self._scheduler.is_empty
        self._scheduler.submit(requests)

    def step(self, *, more: bool = False) -> list[Completion]:
        """Starts the next step, and returns the captions that ended in the newest one whose tokens are there."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # it holds for a thread
        try:
            launch = self._scheduler.launch(full_groups=more and self._runner.has_fixed_shapes)
            if launch is not None:
                self._runner.start(launch, self._noise(launch))
                self._launched.append((launch, self._lacked_input))
                self._lacked_input = False
            if not self._launched or (launch is not None and len(self._launched) <= self._runner.lag):
                return []
            (oldest, lacked_input), outcome = self._launched.popleft(), self._runner.finish()
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise EngineError(f"{error} Lower --num-slots or --prefill-images.") from error
        except RuntimeError as error:
            raise EngineError(f"the torch engine failed: {error}") from error
        self.statistics.idle_s["input" if lacked_input else "host"] += outcome.gap_s
        self._check(oldest, outcome)
        self._count(oldest, outcome)
        return self._scheduler.collect(oldest, outcome.tokens)

    def logits(self, request: Request) -> NDArray[np.float32]:
        """See `GivesLogits`. All of prefix, image and text are computed anew, without a graph, as one prompt."""
        length, room = len(request.text_ids), self._shape.max_text_tokens + self._shape.max_new_tokens
        if not 1 <= length <= room:
            raise ValueError(f"request {request.id}: {length} tokens after the image, a slot has room for 1 to {room}")
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
            torch.cuda.synchronize()  # a step may be on its way that is one too many
        nobodys = self._scheduler.num_slots
        return EagerRunner(self._step, self._shape.num_image_tokens).logits(request, nobodys)

    def close(self) -> None:
        del self._runner, self._step
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _noise(self, launch: Launch) -> NDArray[np.float32] | None:
        if self._sampling.is_greedy:
            return None
        return uniforms(self._sampling.seed, self._scheduler.noise_keys(launch), launch.counters)

    def _check(self, launch: Launch, outcome: Outcome) -> None:
        """Raises EngineError for a caption whose next token nobody knows."""
        unknown = np.flatnonzero(outcome.tokens == NOT_FINITE)
        if len(unknown):
            slot = int(launch.slots[unknown[0]])
            raise EngineError(
                f"The model's logits are not finite in {len(unknown)} of {len(outcome.tokens)} captions, the first of "
                f"them in slot {slot}, at token {launch.counters[unknown[0]] + 1}. Either weights are damaged: open "
                f"the engine without --no-verify, or build it again. Or the model does not bear "
                f"{self.spec.precision}: build it with another --precision."
            )

    def _count(self, launch: Launch, outcome: Outcome) -> None:
        """Adds a step to the statistics."""
        counts, positions = self.statistics, launch.positions[launch.running]
        read = int(positions.sum()) + len(positions)
        if launch.requests:
            counts.mixed_steps += 1
            counts.mixed_s += outcome.seconds
            counts.images += launch.num_images
            counts.captions += len(launch.requests)
            counts.prompt_tokens += launch.num_images * self.spec.vision.num_image_tokens
            counts.prompt_tokens += sum(len(r.text_ids) for r in launch.requests)
        else:
            counts.decode_steps += 1
            counts.decode_s += outcome.seconds
            counts.decode_step_kv_positions += read
        counts.decode_rows += len(positions)
        counts.kv_positions += read
