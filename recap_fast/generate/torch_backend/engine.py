"""The torch engine, CPU and CUDA alike: one step that prefills new images and decodes running captions together.

Requests in, completions out (see generate/engine.py). The scheduler says what a step computes, the runner has the
device compute it, and its tokens go back to the scheduler: at once on a CPU, one step late on a GPU.
"""

import time
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.engine import EngineOptions, SharedPrompt, Statistics, check_request
from recap_fast.generate.spec import WEIGHTS_FILE, EngineSpec, Sizes
from recap_fast.generate.torch_backend.fixed_runner import FixedRunner
from recap_fast.generate.torch_backend.loading import device_name, load_weights, model_dtype, resolve_device
from recap_fast.generate.torch_backend.pages import keep_freed_memory
from recap_fast.generate.torch_backend.precision import check_precision, find_hardware
from recap_fast.generate.torch_backend.runner import EagerRunner, Outcome, PromptShape, Runner
from recap_fast.generate.torch_backend.sampling import uniforms
from recap_fast.generate.torch_backend.scheduler import Launch, Scheduler
from recap_fast.generate.torch_backend.sizes import choose_sizes
from recap_fast.generate.torch_backend.step import Step
from recap_fast.generate.torch_backend.tuning_file import read_tuning
from recap_fast.records import Completion, Request


class TorchEngine:
    """Implements `Engine` with static slots: prefix, image, text and caption of one request each."""

    def __init__(
        self,
        folder: Path,
        spec: EngineSpec,
        options: EngineOptions,
        prompt: SharedPrompt,
        *,
        fixed_shapes: bool | None = None,
    ):
        """`fixed_shapes`: steps of constant shape even on a CPU; None for GPUs only. Raises ConfigError."""
        self.spec, self._sampling = spec, options.sampling
        self._device = resolve_device(options.device)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        else:
            keep_freed_memory()
        limits = spec.limits
        self._max_new_tokens = options.max_new_tokens or limits.max_new_tokens
        shape = PromptShape(
            len(prompt.prefix_ids),
            spec.vision.num_image_tokens,
            prompt.max_text_tokens,
            spec.preprocess.image_size,
        )
        self._max_text_tokens = shape.max_text_tokens
        positions = self._num_positions(shape)
        sizes = self._choose_sizes(folder, options, positions)
        self.statistics = Statistics()
        try:
            self._runner = self._make_runner(folder, prompt, shape, sizes, positions, fixed_shapes)
        except (RuntimeError, MemoryError) as error:
            is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
            if not is_memory and "can't allocate memory" not in str(error):
                raise
            raise ConfigError(
                f"An engine of {sizes.num_slots} slots and {sizes.prefill_images} images a prefill does not fit "
                f"{device_name(self._device)}: lower --num-slots or --prefill-images. {error}"
            ) from error
        self._scheduler = Scheduler(
            sizes.num_slots,
            sizes.prefill_images,
            self._max_new_tokens,
            spec.stop_ids,
            loop_stop=options.loop_stop,
            text_start=shape.num_prefix + shape.num_image_tokens,
        )
        self._launched: deque[tuple[Launch, bool]] = deque()
        """What is on its way, and whether the device had waited for input before it."""
        self._lacked_input = True

    @property
    def free_slots(self) -> int:
        """How many more requests `submit` takes now."""
        return self._scheduler.free_slots

    def describe(self) -> str:
        """Backend, device, precision and slots in one line."""
        slots = f"{self._scheduler.num_slots} slots, {self._scheduler.prefill_images} images a prefill"
        emulated = self.spec.precision == "fp8" and self._device.type == "cpu"
        precision = "fp8 (emulated)" if emulated else self.spec.precision
        return f"torch {torch.__version__} on {device_name(self._device)}, {precision}, {slots}"

    def submit(self, requests: Sequence[Request]) -> None:
        """Puts requests in line. Raises ValueError where there are too many, or one is over the limits."""
        for request in requests:
            check_request(request, self._max_text_tokens, self._max_new_tokens)
        self._lacked_input |= self._scheduler.is_empty
        self._scheduler.submit(requests)

    def step(self) -> list[Completion]:
        """Starts the next step, and returns the captions that ended in the newest one whose tokens are there."""
        try:
            launch = self._scheduler.launch()
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
        self._count(oldest, outcome)
        return self._scheduler.collect(oldest, outcome.tokens)

    def close(self) -> None:
        """Drops weights and cache."""
        del self._runner
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _is_sampled(self) -> bool:
        return self._sampling.temperature > 0.0

    def _noise(self, launch: Launch) -> NDArray[np.float32] | None:
        if not self._is_sampled:
            return None
        return uniforms(self._sampling.seed, self._scheduler.noise_keys(launch), launch.counters)

    def _count(self, launch: Launch, outcome: Outcome) -> None:
        """Adds a step to the statistics."""
        counts, positions = self.statistics, launch.positions[launch.running]
        read = int(positions.sum()) + len(positions)
        if launch.requests:
            counts.mixed_steps += 1
            counts.mixed_s += outcome.seconds
            counts.images += len(launch.requests)
            counts.prompt_tokens += sum(self.spec.vision.num_image_tokens + len(r.text_ids) for r in launch.requests)
        else:
            counts.decode_steps += 1
            counts.decode_s += outcome.seconds
            counts.decode_step_kv_positions += read
        counts.decode_rows += len(positions)
        counts.kv_positions += read

    def _num_positions(self, shape: PromptShape) -> int:
        """Of a slot: prefix, image, text and caption."""
        start = shape.num_prefix + shape.num_image_tokens
        positions = start + shape.max_text_tokens + self._max_new_tokens
        if positions > self.spec.text.max_positions:
            raise ConfigError(
                f"--max-new-tokens {self._max_new_tokens} does not fit: prefix and image take {start} positions, text "
                f"up to {shape.max_text_tokens}, and the model has {self.spec.text.max_positions} in all."
            )
        return positions

    def _choose_sizes(self, folder: Path, options: EngineOptions, positions: int) -> Sizes:
        check_precision(self.spec.precision, find_hardware(self._device), self.spec.kv_precision)
        on_gpu = self._device.type == "cuda"
        return choose_sizes(
            self.spec,
            options,
            read_tuning(folder, device_name(self._device)),
            device=device_name(self._device),
            free_bytes=torch.cuda.mem_get_info(self._device)[0] if on_gpu else None,
            positions=positions,
            text_width=self._max_text_tokens,
        )

    def _make_runner(
        self,
        folder: Path,
        prompt: SharedPrompt,
        shape: PromptShape,
        sizes: Sizes,
        positions: int,
        fixed_shapes: bool | None,
    ) -> Runner:
        """Loads the weights, fills the cache's prefix, and on a GPU captures the step; notes how long each took."""
        times = [time.perf_counter()]
        weights = load_weights(folder / WEIGHTS_FILE, self.spec, self._device)
        times.append(time.perf_counter())
        kv_dtype = torch.float8_e4m3fn if self.spec.kv_precision == "fp8" else model_dtype(self.spec, self._device)
        step = Step(self.spec, weights, sizes.num_slots, positions, kv_dtype, self._sampling)
        step.write_prefix(prompt.prefix_ids.tolist())
        times.append(time.perf_counter())
        runner: Runner = EagerRunner(step, shape)
        if self._device.type == "cuda" if fixed_shapes is None else fixed_shapes:
            runner = FixedRunner(step, shape, sizes.num_slots, sizes.prefill_images, sampled=self._is_sampled)
        times.append(time.perf_counter())
        parts = zip(("weights", "prefix", "capture"), pairwise(times), strict=True)
        self.statistics.startup_s = {name: end - start for name, (start, end) in parts}
        return runner
