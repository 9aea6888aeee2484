"""Engines for tests: real ones on tiny random checkpoints beside transformers' model of the same, and a fake one."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inputs import checkpoints
from numpy.typing import NDArray
from transformers import LlavaForConditionalGeneration

from recap_fast.build.engine_directory import build_engine
from recap_fast.generate.engine import EngineOptions, Statistics
from recap_fast.generate.prepared import PreparedEngine, generate_all
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tokenizer import Tokenizer
from recap_fast.generate.torch_backend.engine import TorchEngine
from recap_fast.records import Completion, Request


@dataclass(frozen=True)
class Pair:
    """One random LLaVA twice: as an engine directory, and as transformers' model in float32."""

    prepared: PreparedEngine
    model: LlavaForConditionalGeneration

    @property
    def folder(self) -> Path:
        return self.prepared.folder

    @property
    def spec(self) -> EngineSpec:
        return self.prepared.spec

    @property
    def prompts(self) -> PromptEncoder:
        return self.prepared.prompts

    @property
    def tokenizer(self) -> Tokenizer:
        return self.prepared.tokenizer

    def open(
        self, *, stop_ids: Sequence[int] | None = None, fixed_shapes: bool | None = None, **options: Any
    ) -> TorchEngine:
        """Opens the engine on the CPU; with `fixed_shapes` its steps are those of a GPU."""
        spec = self.spec if stop_ids is None else dataclasses.replace(self.spec, stop_ids=tuple(stop_ids))
        given = EngineOptions(**{"device": "cpu", "loop_stop": False, **options})
        return TorchEngine(self.folder, spec, given, self.prompts, fixed_shapes=fixed_shapes)

    def inputs(self, pixels: NDArray[np.uint8], text_ids: NDArray[np.int32]) -> dict[str, torch.Tensor]:
        """One request as transformers takes it."""
        image = [self.model.config.image_token_id] * self.spec.vision.num_image_tokens
        ids = torch.tensor([[*self.prompts.prefix_ids.tolist(), *image, *text_ids.tolist()]])
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.spec.preprocess.mean, self.spec.preprocess.std))
        values = (torch.from_numpy(pixels)[None].float() / 255 - mean) / std
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": values}

    @torch.inference_mode()
    def reference(self, request: Request, stop_ids: Sequence[int] | None = None) -> list[int]:
        """transformers' greedy caption of one request, alone: ids without the stop token."""
        stop = list(self.spec.stop_ids if stop_ids is None else stop_ids)
        inputs = self.inputs(request.pixels, request.text_ids)
        self.model.generation_config.eos_token_id = stop or None
        out = self.model.generate(
            **inputs, max_new_tokens=request.max_new_tokens, do_sample=False, pad_token_id=0, eos_token_id=stop or None
        )
        ids: list[int] = out[0, inputs["input_ids"].shape[1] :].tolist()
        return ids[:-1] if ids and ids[-1] in stop else ids


def make_pair(folder: Path, *, precision: str = "float32", recipe: str = "llava", **checkpoint: Any) -> Pair:
    """Makes a checkpoint (see checkpoints.make_checkpoint), builds its engine, loads both."""
    model = checkpoints.make_checkpoint(folder / "checkpoint", **checkpoint)
    build_engine(recipe, folder / "checkpoint", folder / "engine", precision=precision)
    return Pair(PreparedEngine.read(folder / "engine"), model.float())


def random_requests(
    pair: Pair, count: int, *, max_new_tokens: int = 24, seed: int = 0, fields: bool = False
) -> list[Request]:
    """Requests of noise images; with `fields` their texts differ in content and length."""
    rng = np.random.default_rng(seed)
    side = pair.spec.vision.image_size
    text = pair.prompts.text_ids({})[0]
    requests = []
    for i in range(count):
        longest = pair.spec.limits.max_text_tokens - len(text)
        extra = rng.integers(0, 256, rng.integers(0, longest + 1) if fields else 0).astype(np.int32)
        pixels = rng.integers(0, 256, (3, side, side), dtype=np.uint8)
        requests.append(Request(i, pixels, np.concatenate([text, extra]), max_new_tokens, noise_key=1000 + i))
    return requests


def caption_all(engine: Any, requests: Sequence[Request]) -> dict[int, Completion]:
    """Runs requests through an engine; their completions by id."""
    return {completion.id: completion for completion in generate_all(engine, requests)}


class FakeEngine:
    """An `Engine` without weights: the caption's ids follow from the pixels, and its length too."""

    def __init__(self, num_slots: int = 4, longest: int = 9):
        self._num_slots, self._longest = num_slots, longest
        self._running: dict[int, tuple[Request, int]] = {}
        self.steps = 0
        self.statistics = Statistics()

    @property
    def free_slots(self) -> int:
        return self._num_slots - len(self._running)

    def submit(self, requests: Sequence[Request]) -> None:
        if len(requests) > self.free_slots:
            raise ValueError(f"{len(requests)} requests given, {self.free_slots} slots are free")
        for request in requests:
            self._running[request.id] = (request, 1 + int(request.pixels.sum()) % self._longest)

    def step(self) -> list[Completion]:
        self.steps += 1
        done = []
        for request, left in list(self._running.values()):
            if left > 1:
                self._running[request.id] = (request, left - 1)
                continue
            del self._running[request.id]
            length = 1 + int(request.pixels.sum()) % self._longest
            ids = np.full(length, 65 + int(request.pixels.sum()) % 26, np.int32)
            done.append(Completion(request.id, ids, "stop", length + 1))
        return done

    def describe(self) -> str:
        return "fake"

    def close(self) -> None:
        self._running.clear()
