"""The oracle: a tiny random model as an engine and as transformers', whose greedy captions are the right ones."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlavaForConditionalGeneration

from inputs import checkpoints
from recap_fast.build.engine_directory import build_engine
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.prompts import Prompts
from recap_fast.generate.spec import EngineSpec
from recap_fast.generate.tokenizer import Tokenizer
from recap_fast.generate.torch_backend.engine import TorchEngine
from recap_fast.records import Request


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
    def prompts(self) -> Prompts:
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

    def with_texts(self, max_text_tokens: int) -> "Pair":
        """The same for longer texts than the engine was built for."""
        return dataclasses.replace(self, prepared=with_texts(self.prepared, max_text_tokens))

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


def with_texts(prepared: PreparedEngine, max_text_tokens: int) -> PreparedEngine:
    """An engine that takes so many tokens after the image."""
    prompts = Prompts(prepared.tokenizer, prepared.spec.prompt, max_text_tokens=max_text_tokens)
    return dataclasses.replace(prepared, prompts=prompts)


def make_pair(folder: Path, *, precision: str = "float32", recipe: str = "llava", **checkpoint: Any) -> Pair:
    """Makes a checkpoint (see checkpoints.make_checkpoint), builds its engine, loads both."""
    model = checkpoints.make_checkpoint(folder / "checkpoint", **checkpoint)
    build_engine(recipe, folder / "checkpoint", folder / "engine", precision=precision, overwrite=True)
    return Pair(PreparedEngine.read(folder / "engine"), model.float())


def random_requests(
    pair: Pair, count: int, *, max_new_tokens: int = 24, seed: int = 0, fields: bool = False
) -> list[Request]:
    """Requests of noise images; with `fields` their texts differ in content and length, up to the engine's longest."""
    rng = np.random.default_rng(seed)
    side = pair.spec.vision.image_size
    text = pair.prompts.text_ids({})[0]
    requests = []
    for i in range(count):
        longest = pair.prompts.max_text_tokens - len(text)
        extra = rng.integers(0, 256, rng.integers(0, longest + 1) if fields else 0).astype(np.int32)
        pixels = rng.integers(0, 256, (3, side, side), dtype=np.uint8)
        requests.append(Request(i, pixels, np.concatenate([text, extra]), max_new_tokens, noise_key=1000 + i))
    return requests
