"""The torch engine, CPU and CUDA alike: one step that prefills new images and decodes running captions together.

Requests in, completions out (see generate/engine.py). A step is: seat the waiting requests, run the vision tower on
their pixels, one pass of the decoder over all rows, choose a token for each caption, hand the tokens to the scheduler.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.spec import WEIGHTS_FILE, EngineSpec
from recap_fast.generate.torch_backend.llama import Decode, KVCache, Llama, Prefill
from recap_fast.generate.torch_backend.sampling import choose, uniforms
from recap_fast.generate.torch_backend.scheduler import Admission, Scheduler
from recap_fast.generate.torch_backend.vision import VisionTower
from recap_fast.native import core
from recap_fast.records import Completion, Request

logger = logging.getLogger(__name__)

CPU_SIZES = (32, 4)
"""Slots and images a prefill unless asked for otherwise: more push each other's keys and values out of the cache."""

# Letters: n images joining, S width of their text, P prefix length, N image tokens, B decode rows.


class TorchEngine:
    """Implements `Engine` with static slots: prefix, image, text and caption of one request each."""

    def __init__(self, folder: Path, spec: EngineSpec, options: EngineOptions, prefix_ids: Sequence[int]):
        self.spec = spec
        self._sampling = options.sampling
        self._device = resolve_device(options.device)
        limits = spec.limits
        self._max_new_tokens = options.max_new_tokens or limits.max_new_tokens
        self._max_text_tokens = options.max_text_tokens or limits.max_text_tokens
        self._num_prefix = len(prefix_ids)
        self._num_image_tokens = spec.vision.num_image_tokens
        start = self._num_prefix + self._num_image_tokens
        positions = start + self._max_text_tokens + self._max_new_tokens
        if positions > spec.text.max_positions:
            raise ConfigError(
                f"--max-new-tokens {self._max_new_tokens} does not fit: prefix and image take {start} positions, text "
                f"up to {self._max_text_tokens}, and the model has {spec.text.max_positions} in all."
            )
        most_slots, most_images = CPU_SIZES if self._device.type == "cpu" else (limits.num_slots, limits.prefill_images)
        num_slots = options.num_slots or min(limits.num_slots, most_slots)
        weights = load_weights(folder / WEIGHTS_FILE, self._device)
        self._scheduler = Scheduler(
            num_slots,
            options.prefill_images or min(limits.prefill_images, most_images, max(1, num_slots // 4)),
            self._max_new_tokens,
            spec.stop_ids,
            loop_stop=options.loop_stop,
        )
        self._vision = VisionTower(spec.vision, spec.preprocess, weights)
        self._llama = Llama(spec.text, weights, positions)
        self._cache = self._make_cache(num_slots, positions)
        self._next_ids = torch.zeros(num_slots, dtype=torch.int64, device=self._device)
        self._positions = torch.full((num_slots,), self._cache.idle_position, dtype=torch.int64, device=self._device)
        self._write_prefix(prefix_ids)

    @property
    def free_slots(self) -> int:
        """How many more requests `submit` takes now."""
        return self._scheduler.free_slots

    def describe(self) -> str:
        """Backend, device, precision and slots in one line."""
        slots = f"{self._scheduler.num_slots} slots, {self._scheduler.prefill_images} images a prefill"
        precision = "fp8 (emulated)" if self.spec.precision == "fp8" else self.spec.precision
        return f"torch {torch.__version__} on {_device_name(self._device)}, {precision}, {slots}"

    def submit(self, requests: Sequence[Request]) -> None:
        """Puts requests in line. Raises ValueError where there are too many, or one is over the limits."""
        for request in requests:
            if len(request.text_ids) > self._max_text_tokens:
                raise ValueError(
                    f"request {request.id}: {len(request.text_ids)} text tokens, the engine takes "
                    f"{self._max_text_tokens}"
                )
            if not 1 <= request.max_new_tokens <= self._max_new_tokens:
                raise ValueError(
                    f"request {request.id}: {request.max_new_tokens} new tokens, the engine makes "
                    f"1 to {self._max_new_tokens}"
                )
        self._scheduler.submit(requests)

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Prefills the images that join, decodes the rest, returns the captions that ended."""
        try:
            return self._step()
        except torch.OutOfMemoryError as error:
            raise EngineError(f"{error} Lower --num-slots or --prefill-images.") from error
        except RuntimeError as error:
            raise EngineError(f"the torch engine failed: {error}") from error

    def close(self) -> None:
        """Drops weights and cache."""
        del self._vision, self._llama, self._cache
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _step(self) -> list[Completion]:
        running = self._scheduler.running
        admission = self._scheduler.admit()
        if admission is None and not len(running):
            return []
        prefill, rows = self._join(admission) if admission is not None else (None, [])
        decode = self._decode_part(running)
        if decode is not None:
            rows.append(self._llama.embed(self._next_ids[: len(decode.positions)]))
        logits = self._llama.forward(torch.cat(rows), self._cache, prefill, decode)
        num_new = 0 if admission is None else len(admission.slots)
        slots = running if admission is None else np.concatenate([admission.slots, running])
        if decode is not None and len(running) < len(decode.positions):  # rows of idle slots are left out
            logits = logits[self._to_device(np.concatenate([np.arange(num_new), num_new + running]))]
        chosen = choose(logits, self._sampling, self._noise(slots))
        on_device = self._to_device(slots)
        self._next_ids[on_device] = chosen
        self._positions[on_device[num_new:]] += 1
        if prefill is not None:
            self._positions[prefill.slots] = prefill.next_positions
        completions = self._scheduler.collect(slots, chosen.to("cpu", torch.int32).numpy())
        if completions:
            idle = np.setdiff1d(slots, self._scheduler.running)
            self._positions[self._to_device(idle)] = self._cache.idle_position
        return completions

    def _join(self, admission: Admission) -> tuple[Prefill, list[Tensor]]:
        """What the images that join contribute to a step: where they go, and their rows [n * (N + S), D]."""
        texts = [r.text_ids for r in admission.requests]
        width = max(map(len, texts))
        packed = core.pack_prompts(texts, self._num_image_tokens, width, prefix_length=self._num_prefix)
        pixels = self._to_device(np.stack([r.pixels for r in admission.requests]))
        image = self._vision.encode(pixels).flatten(0, 1)
        rows = image.new_empty(len(texts) * (self._num_image_tokens + width), image.shape[-1])
        rows[self._to_device(packed.image_rows)] = image
        rows[self._to_device(packed.text_rows)] = self._llama.embed(self._to_device(packed.text_ids)).flatten(0, 1)
        prefill = Prefill(
            self._to_device(admission.slots),
            self._num_prefix,
            self._num_image_tokens + width,
            self._to_device(packed.last_rows),
            self._to_device(packed.positions),
        )
        return prefill, [rows]

    def _decode_part(self, running: NDArray[np.int64]) -> Decode | None:
        """Decode rows are slots 0 to the highest running one; idle slots in between write to the idle position."""
        if not len(running):
            return None
        positions = self._positions[: int(running[-1]) + 1].clone()
        span = int(positions[self._to_device(running)].max()) + 1
        return Decode(positions, span)

    def _noise(self, slots: NDArray[np.int64]) -> Tensor | None:
        if self._sampling.temperature == 0.0:
            return None
        keys, counters = self._scheduler.noise_keys(slots)
        return self._to_device(uniforms(self._sampling.seed, keys, counters))

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _make_cache(self, num_slots: int, positions: int) -> KVCache:
        text = self.spec.text
        dtype = torch.bfloat16 if self.spec.precision == "fp8" else getattr(torch, self.spec.precision)
        try:
            return KVCache(text, num_slots, positions, dtype, self._device)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            per_slot = 2 * text.num_layers * text.num_kv_heads * positions * text.head_dim * dtype.itemsize
            raise ConfigError(
                f"The cache of {num_slots} slots takes {num_slots * per_slot / 2**30:.1f} GiB, more than "
                f"{_device_name(self._device)} has free: lower --num-slots."
            ) from error

    @torch.inference_mode()
    def _write_prefix(self, prefix_ids: Sequence[int]) -> None:
        """Computes keys and values of the constant text before the image once and copies them to every slot."""
        count = len(prefix_ids)
        if not count:
            return
        slots = torch.zeros(1, dtype=torch.int64, device=self._device)
        end = torch.full((1,), count, device=self._device)
        prefill = Prefill(slots, 0, count, end - 1, end)
        rows = self._llama.embed(torch.tensor(prefix_ids, device=self._device))
        self._llama.forward(rows, self._cache, prefill, None)
        self._cache.data[:, :, 1:, :, :count] = self._cache.data[:, :, :1, :, :count]


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA device where there is one. Raises ConfigError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: give auto, cpu, cuda or cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: recap-fast runs on cpu and cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices.")
    return device


def load_weights(path: Path, device: torch.device) -> dict[str, Tensor]:
    """All tensors of the engine's weight file; on the CPU they stay memory-mapped."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): build the engine again.") from error
    return weights


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"cpu ({count} thread{'s' if count > 1 else ''})"
