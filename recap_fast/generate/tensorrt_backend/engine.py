"""The TensorRT-LLM engine: our vision tower encodes images, TensorRT-LLM's compiled language model generates captions.

Requests wait for a group of images to encode, then they are in flight, twice as many as the batch takes, so that a
joining request is never waited for. Whole captions come back, in the order in which they end.
"""

import queue
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.device import check_precision
from recap_fast.generate.engine import EngineOptions, Statistics, check_request
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import WEIGHTS_FILE, EngineSpec
from recap_fast.generate.tensorrt_backend import compatibility
from recap_fast.generate.tensorrt_backend.compatibility import MODEL_FOLDER, Manifest
from recap_fast.generate.tensorrt_backend.session import Answer, Answers, Prompt, complete, request_seed
from recap_fast.generate.vision.tower import load_tower
from recap_fast.records import Completion, Request

if TYPE_CHECKING:
    from recap_fast.generate.tensorrt_backend.executor import TrtSession

IN_FLIGHT = 2
"""Requests that TensorRT-LLM holds, in multiples of its batch. Each has its image's embeddings on the GPU."""
WAIT_S = 0.02
"""How long a step waits for an answer where there is none yet."""
STALL_S = 600.0
"""Without any answer for so long the executor is given up: a batch of the longest captions takes a fraction of it."""
FAILURES = 8
"""One request that fails is a row. So many in a row are an executor that has broken."""


class TensorRTEngine:
    """Implements `Engine` with TensorRT-LLM's in-flight batching."""

    def __init__(self, folder: Path, spec: EngineSpec, options: EngineOptions, prompt: PromptEncoder):
        """Raises ConfigError where library, GPU, engine and options do not fit together."""
        manifest = Manifest.parse(spec.backend_data or {})
        self._version = compatibility.require_library()
        self._gpu = compatibility.find_gpu(options.device)
        compatibility.check_same_machine(manifest, self._version, self._gpu)
        check_precision(spec.precision, self._gpu, spec.kv_precision)
        compatibility.check_model_folder(folder, manifest)
        self.spec, self._manifest, self._options = spec, manifest, options
        self._num_slots = options.num_slots or manifest.limits.max_batch_size
        self._group = min(options.prefill_images or spec.limits.prefill_images, self._num_slots)
        self._prefix_ids = prompt.prefix_ids
        self._shape = spec.slot_shape(
            len(prompt.prefix_ids), max_text_tokens=prompt.max_text_tokens, max_new_tokens=options.max_new_tokens
        )
        first = manifest.fake_id_base
        self._image_ids = np.arange(first, first + spec.vision.num_image_tokens, dtype=np.int32)
        self._check_limits()
        self.statistics = Statistics()
        self._waiting: deque[Request] = deque()
        self._running: dict[int, Prompt] = {}
        self._failing: list[Answer] = []
        """Held back until another one is there, or all in flight have failed."""
        self._num_failures = 0
        """In a row."""
        self._answers: Answers = queue.SimpleQueue()
        started = time.perf_counter()
        # the tower first, so that the executor knows what memory is left
        self._tower = load_tower(folder / WEIGHTS_FILE, spec, self._gpu.device, verify=options.verify)
        loaded = time.perf_counter()
        self._session = self._open(folder)
        self.statistics.startup_s = {"vision": loaded - started, "tensorrt_llm": time.perf_counter() - loaded}
        self._heard = time.monotonic()

    @property
    def free_slots(self) -> int:
        return IN_FLIGHT * self._num_slots - len(self._waiting) - len(self._running)

    def describe(self) -> str:
        return (
            f"tensorrt-llm {self._version} on {self._gpu.name}, {self.spec.precision}, "
            f"{self._num_slots} slots, {self._group} images encoded at once"
        )

    def submit(self, requests: Sequence[Request]) -> None:
        if len(requests) > self.free_slots:
            raise ValueError(f"{len(requests)} requests given, {self.free_slots} slots are free")
        for request in requests:
            check_request(request, self._shape)
        self._waiting.extend(requests)

    def step(self, *, more: bool = False) -> list[Completion]:
        """Encodes and hands over what is in line, and returns what has ended; waits a little where nothing has.

        `more` makes no difference: the executor fills its batches itself.
        """
        self._feed()
        completions = complete(self._collect(), self.spec.stop_ids, loop_stop=self._options.loop_stop)
        for completion in completions:
            self._count(self._running.pop(completion.id), completion)
        return completions

    def close(self) -> None:
        self._session.close()
        del self._tower
        if self._gpu.device.type == "cuda":
            torch.cuda.empty_cache()

    def _feed(self) -> None:
        """A group at a time, as long as groups are whole; a part of one only where the batch would run dry."""
        while self._waiting and (len(self._waiting) >= self._group or len(self._running) < self._num_slots):
            if not self._running:
                self._heard = time.monotonic()
            requests = [self._waiting.popleft() for _ in range(min(self._group, len(self._waiting)))]
            for request, table in zip(requests, self._encode(requests), strict=True):
                # `submit` and `_check_limits` have seen to it that they fit what was built
                ids = np.concatenate([self._prefix_ids, self._image_ids, request.text_ids])
                seed = request_seed(self._options.sampling.seed, request.noise_key)
                prompt = Prompt(request.id, ids.tolist(), table, request.max_new_tokens, seed)
                self._session.submit(prompt)
                self._running[request.id] = prompt

    @torch.inference_mode()
    def _encode(self, requests: Sequence[Request]) -> Tensor:
        """Image tokens [n, N, D] in the language model's type, complete when this returns.

        The executor reads them on a stream of its own, so the host waits for them; and they are held until their
        caption is there, so that torch gives their memory to nobody else.
        """
        try:
            pixels = torch.stack([torch.as_tensor(r.pixels, device=self._gpu.device) for r in requests])
            tables = self._tower.encode(pixels).to(getattr(torch, self._manifest.dtype)).contiguous()
            if tables.is_cuda:
                torch.cuda.current_stream(tables.device).synchronize()
        except torch.OutOfMemoryError as error:
            raise EngineError(f"{error} Lower --num-slots or --prefill-images.") from error
        except RuntimeError as error:
            raise EngineError(f"the vision tower failed: {error}") from error
        if not tables.isfinite().all():
            raise EngineError(
                f"The tower's numbers for one of the images {[r.id for r in requests]} are not finite. Either its "
                "weights are damaged: open the engine without --no-verify, or build it again. Or the model does not "
                f"bear {self._manifest.dtype}: build it with another --precision."
            )
        return tables

    def _collect(self) -> list[Answer]:
        """What has ended, all of it; failed ones only once it is clear that the executor has not broken."""
        ended: list[Answer] = []
        wait_s = WAIT_S if self._running else 0.0
        try:
            while True:
                event = self._answers.get(timeout=wait_s) if wait_s else self._answers.get_nowait()
                wait_s, self._heard = 0.0, time.monotonic()
                if isinstance(event, EngineError):
                    raise event
                if event.error is None:
                    ended += [*self._failing, event]
                    self._failing, self._num_failures = [], 0
                    continue
                self._failing.append(event)
                self._num_failures += 1
                if self._num_failures >= FAILURES:
                    raise EngineError(f"{FAILURES} requests failed one after the other, the last with: {event.error}")
        except queue.Empty:
            pass
        if self._failing and len(ended) + len(self._failing) == len(self._running):
            ended, self._failing = [*ended, *self._failing], []
        if self._running and not ended and time.monotonic() - self._heard > STALL_S:
            raise EngineError(f"TensorRT-LLM has not answered for {STALL_S:g} s, with {len(self._running)} in flight.")
        return ended

    def _count(self, prompt: Prompt, completion: Completion) -> None:
        """Adds a caption to the statistics; steps and their seconds are not to be had."""
        counts, later = self.statistics, max(0, completion.num_tokens - 1)
        counts.images += 1
        counts.captions += 1
        counts.prompt_tokens += len(prompt.token_ids) - len(self._prefix_ids)
        counts.decode_rows += later
        counts.kv_positions += later * len(prompt.token_ids) + later * (later + 1) // 2

    def _check_limits(self) -> None:
        """Compares what the run asks for with what was built. Raises ConfigError."""
        limits, shape = self._manifest.limits, self._shape
        wanted = {
            "--num-slots": (self._num_slots, limits.max_batch_size),
            "prompt, in tokens": (shape.text_start + shape.max_text_tokens, limits.max_input_len),
            "prompt and caption (--max-new-tokens)": (shape.num_positions, limits.max_seq_len),
            "image tokens of all slots": (
                self._num_slots * shape.num_image_tokens,
                limits.max_prompt_embedding_table_size,
            ),
        }
        over = [f"{name} {asked}, built for {built}" for name, (asked, built) in wanted.items() if asked > built]
        if over:
            raise ConfigError(
                f"The engine was compiled for less: {'; '.join(over)}. Ask for less, or build it again with larger "
                "limits in the recipe."
            )

    def _open(self, folder: Path) -> "TrtSession":
        with compatibility.importing():
            from recap_fast.generate.tensorrt_backend.executor import TrtSession

        model, limits, sampling = folder / MODEL_FOLDER, self._manifest.limits, self._options.sampling
        return TrtSession(model, limits, self._num_slots, self.spec.stop_ids, sampling, self._answers)
