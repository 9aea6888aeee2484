"""Opens a torch engine on its device: its sizes, its weights, the prefix in its cache, and the runner of its steps."""

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from recap_fast.cpus import usable_memory
from recap_fast.errors import ConfigError
from recap_fast.generate.device import (
    check_precision,
    device_name,
    disabled_kernels,
    find_hardware,
    free_memory,
    resolve_device,
)
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import WEIGHTS_FILE, EngineSpec, Sizes, SlotShape
from recap_fast.generate.torch_backend.fixed_runner import FixedRunner
from recap_fast.generate.torch_backend.pages import keep_freed_memory
from recap_fast.generate.torch_backend.runner import EagerRunner, Runner
from recap_fast.generate.torch_backend.sizes import choose_sizes, read_tuning
from recap_fast.generate.torch_backend.step import Step
from recap_fast.generate.vision.loading import load_weights, model_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An engine's device, ready for steps."""

    device: torch.device
    shape: SlotShape
    sizes: Sizes
    step: Step
    runner: Runner
    fallbacks: list[str]
    """See `Step.fallbacks`."""
    startup_s: dict[str, float]
    """Seconds for each of 'weights', 'prefix' and 'capture'."""


def open_device(
    folder: Path, spec: EngineSpec, options: EngineOptions, prompt: PromptEncoder, *, fixed_shapes: bool | None
) -> Opened:
    """See `TorchEngine`. Raises ConfigError where the device lacks the engine's precision or the memory for it."""
    device = resolve_device(options.device)
    disabled_kernels()  # raises ConfigError before the weights are loaded
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    shape = spec.slot_shape(
        len(prompt.prefix_ids), max_text_tokens=prompt.max_text_tokens, max_new_tokens=options.max_new_tokens
    )
    if shape.num_positions > spec.text.max_positions:
        raise ConfigError(
            f"--max-new-tokens {shape.max_new_tokens} does not fit: prefix and image take {shape.text_start} "
            f"positions, the longest prompt up to {shape.max_text_tokens}, and the model has "
            f"{spec.text.max_positions} in all: give fewer, or a shorter prompt."
        )
    check_precision(spec.precision, find_hardware(device), spec.kv_precision)
    name = device_name(device)
    is_cpu = device.type == "cpu"
    memory_bytes = usable_memory() if is_cpu else free_memory(device)
    tuned = read_tuning(folder, name)
    sizes = choose_sizes(spec, shape, options, tuned, device=name, memory_bytes=memory_bytes, is_cpu=is_cpu)
    times = [time.perf_counter()]
    try:
        weights = load_weights(folder / WEIGHTS_FILE, spec, device, verify=options.verify)
        times.append(time.perf_counter())
        kv_dtype = torch.float8_e4m3fn if spec.kv_precision == "fp8" else model_dtype(spec, device)
        step = Step(spec, weights, sizes.num_slots, shape.num_positions, kv_dtype, options.sampling)
        step.write_prefix(prompt.prefix_ids.tolist())
        times.append(time.perf_counter())
        runner: Runner = EagerRunner(step, shape.num_image_tokens)
        if device.type == "cuda" if fixed_shapes is None else fixed_shapes:
            runner = FixedRunner(step, shape, sizes, spec.vision.image_size, options.captions_per_image)
        times.append(time.perf_counter())
    except (RuntimeError, MemoryError) as error:
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not is_memory and "can't allocate memory" not in str(error):
            raise
        raise ConfigError(
            f"An engine of {sizes.num_slots} slots and prefill batches of {sizes.prefill_images} does not fit "
            f"{name}: lower --num-slots or --prefill-images. {error}"
        ) from error
    parts = zip(("weights", "prefix", "capture"), pairwise(times), strict=True)
    startup_s = {part: end - start for part, (start, end) in parts}
    return Opened(
        device=device,
        shape=shape,
        sizes=sizes,
        step=step,
        runner=runner,
        fallbacks=step.fallbacks,
        startup_s=startup_s,
    )
