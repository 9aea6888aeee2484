"""Runs the launches of the scheduler: what a runner is, and the eager one of CPUs; fixed_runner.py has that of GPUs."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recap_fast.arrow_core import core
from recap_fast.generate.device import num_cpu_threads
from recap_fast.generate.ops import Rows
from recap_fast.generate.torch_backend.scheduler import Launch
from recap_fast.generate.torch_backend.step import Branching, Joining, Step
from recap_fast.records import Pixels, Request

# Letters: n requests joining, S width of their text, N image tokens, B running captions.


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one launch."""

    tokens: NDArray[np.int32]
    """[n + B], in the order of the launch's slots."""
    seconds: float
    """That the device took."""
    gap_s: float
    """From the end of the step before it to its start: the device had nothing to do."""


class Runner(Protocol):
    """A device's queue of steps. They finish in the order in which they were started."""

    lag: int
    """How many steps may be on their way when the next one is started."""
    has_fixed_shapes: bool
    """Whether a prefill takes as long with one image as with as many as fit."""

    def start(self, launch: Launch, noise: NDArray[np.float32] | None) -> None:
        """Hands a step to the device."""

    def finish(self) -> Outcome:
        """Waits for the oldest step."""


class EagerRunner:
    """For CPUs: runs a step at once, with no more rows than it needs. On a GPU it serves to be compared with."""

    lag = 0
    has_fixed_shapes = False

    def __init__(self, step: Step, num_image_tokens: int):
        self._step, self._num_image_tokens = step, num_image_tokens
        self._device, self._num_threads = step.cache.data.device, num_cpu_threads()
        self._done: deque[Outcome] = deque()
        self._ended = time.perf_counter()

    def start(self, launch: Launch, noise: NDArray[np.float32] | None) -> None:
        start = time.perf_counter()
        running = None
        if len(launch.slots) > len(launch.requests):
            running = Rows(self._send(launch.slots[launch.running]), self._send(launch.positions[launch.running]))
        joining: Joining | Branching | None = None
        if launch.sources is not None:
            joining = self._branch(launch.requests, launch.slots[: len(launch.requests)], launch.sources)
        elif launch.requests:
            joining = self._join(launch.requests, launch.slots[: len(launch.requests)])
        with self._threads():
            tokens = self._step.run(joining, running, None if noise is None else self._send(noise))
        on_host = tokens.to("cpu", torch.int32).numpy()
        gap_s, self._ended = start - self._ended, time.perf_counter()
        self._done.append(Outcome(on_host, self._ended - start, gap_s))

    def finish(self) -> Outcome:
        return self._done.popleft()

    def logits(self, request: Request, slot: int) -> NDArray[np.float32]:
        """The logits [V] behind a request's text, whose keys and values go to a slot that nobody uses."""
        with self._threads():
            logits: NDArray[np.float32] = self._step.logits(self._join([request], np.array([slot])))[0].cpu().numpy()
        return logits

    @contextlib.contextmanager
    def _threads(self) -> Iterator[None]:
        """As many threads as the engine has; it holds for this thread's products."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _join(self, requests: Sequence[Request], slots: NDArray[np.int64]) -> Joining:
        text_ids, last_rows = self._pack(requests, self._num_image_tokens)
        return Joining(self._stack([r.pixels for r in requests]), text_ids, self._send(slots), last_rows)

    def _branch(self, requests: Sequence[Request], slots: NDArray[np.int64], sources: NDArray[np.int64]) -> Branching:
        text_ids, last_rows = self._pack(requests, 0)
        return Branching(text_ids, self._send(slots), self._send(sources), last_rows)

    def _pack(self, requests: Sequence[Request], num_image_tokens: int) -> tuple[Tensor, Tensor]:
        texts = [r.text_ids for r in requests]
        text_ids, last_rows = core.pack_prompts(texts, num_image_tokens, max(map(len, texts)))
        return self._send(text_ids), self._send(last_rows)

    def _stack(self, pixels: list[Pixels]) -> Tensor:
        """By NumPy where it can: torch starts threads for the copy and waits, should one of them be decoding images."""
        if all(isinstance(p, np.ndarray) for p in pixels):
            return torch.from_numpy(np.stack(pixels)).to(self._device)
        return torch.stack([torch.as_tensor(p, device=self._device) for p in pixels])

    def _send(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
