"""LLaVA-LLaMA3-8B with random weights as an engine directory, made on the device: no checkpoint, no network.

The same numbers whatever the precision: bfloat16 first, then perhaps 8 bits of it. `tiny` has the same parts.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from inputs.shapes import RECIPES, Shape
from inputs.vocabularies import word_vocabulary
from inputs.weights import random_weight
from inputs.workload import LONGEST
from recap_fast.build.recipe import PROMPT, load_recipe
from recap_fast.defaults import MAX_FIELD_TOKENS
from recap_fast.generate.device import resolve_device
from recap_fast.generate.engine import Engine, EngineOptions
from recap_fast.generate.layout import EIGHT_BITS, plan_weights
from recap_fast.generate.ops.linear import quantize_channels
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import WEIGHTS_FILE, EngineSpec, KVPrecision, Limits, Precision, PromptSpec
from recap_fast.generate.tokenizer import load_tokenizer
from recap_fast.generate.torch_backend import opening
from recap_fast.generate.torch_backend.engine import TorchEngine
from recap_fast.generate.vision.loading import model_dtype
from recap_fast.records import Preprocess, Request
from suite.setting import Setting

PROMPT_LENGTHS, MAX_TEXT_TOKENS = (5, 22), 24
"""Ids before and after the image, as Llama 3's tokenizer makes them of the recipes' question; rounded up to eights."""
NUM_PIXELS = 16


def make(setting: Setting, precision: Precision) -> PreparedEngine:
    """The engine in this precision, made if it is not there yet."""
    folder = setting.work / f"engine-{precision}"
    if not (folder / "engine.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, setting, precision)
    return PreparedEngine.read(folder)


def options(setting: Setting, **more: Any) -> EngineOptions:
    """An engine that ends no caption before its length."""
    return EngineOptions(
        device=setting.device,
        num_slots=setting.num_slots,
        prefill_images=setting.prefill_images,
        loop_stop=False,
        **more,
    )


def make_requests(made: PreparedEngine, lengths: Sequence[int], pixels: NDArray[np.uint8]) -> list[Request]:
    """A request for each length, over the pictures in turn."""
    text_ids = made.prompts.text_ids({})[0]
    return [Request(i, pixels[i % len(pixels)], text_ids, length) for i, length in enumerate(lengths)]


def random_pixels(made: PreparedEngine, count: int) -> NDArray[np.uint8]:
    """Noise images, uint8 [count, 3, side, side]."""
    side = made.spec.preprocess.image_size
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


@dataclass(frozen=True)
class MadeUpPrompt:
    """As many ids as Llama 3's prompt has; which ones is all the same to what is timed."""

    prefix_ids: NDArray[np.int32]
    text_ids: NDArray[np.int32]
    max_text_tokens: int


def open_drawn(
    setting: Setting, precision: Precision, kv_precision: KVPrecision
) -> tuple[Engine, NDArray[np.uint8], NDArray[np.int32]]:
    """The engine without a folder, its weights drawn on the device; and pixels and text ids for its requests."""
    device = resolve_device(setting.device)
    prompt = MadeUpPrompt(*(np.arange(n, dtype=np.int32) for n in PROMPT_LENGTHS), MAX_TEXT_TOKENS)
    spec = dataclasses.replace(make_spec(setting, precision, MAX_TEXT_TOKENS), kv_precision=kv_precision)
    dtype = model_dtype(spec, device)

    def draw(*_: Any) -> dict[str, Tensor]:
        drawn = draw_weights(setting.shape, precision, device)
        return {name: weight.to(dtype) if weight.dtype == torch.bfloat16 else weight for name, weight in drawn}

    with mock.patch.object(opening, "load_weights", draw):  # where the engine would read 8 to 17 GB
        engine = TorchEngine(setting.work, spec, options(setting), prompt, fixed_shapes=True)
    side = spec.vision.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_PIXELS, 3, side, side), dtype=np.uint8)
    return engine, pixels, prompt.text_ids


def best_precision(setting: Setting) -> Precision:
    """FP8 where the card has it."""
    has_fp8 = setting.device == "cpu" or torch.cuda.get_device_capability() >= (8, 9)
    return "fp8" if has_fp8 else "int8"


def draw_weights(shape: Shape, precision: Precision, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Random weights of an engine, by name: bfloat16, or 8 bits of it and float32 scales; made on the device."""
    for seed, tensor in enumerate(plan_weights(shape.vision, shape.text)):
        generator = torch.Generator(device).manual_seed(seed)
        weight = random_weight(tensor.name, tensor.shape, generator).to(torch.bfloat16)
        if tensor.is_text_linear and precision in EIGHT_BITS:
            values, scale = quantize_channels(weight, EIGHT_BITS[precision].dtype)
            yield tensor.name, values
            yield f"{tensor.name.removesuffix('.weight')}.scale", scale
        else:
            yield tensor.name, weight


def make_spec(setting: Setting, precision: Precision, max_text_tokens: int) -> EngineSpec:
    """engine.json of the engine."""
    shape, recipe = setting.shape, load_recipe(RECIPES[precision])
    sizes = recipe.limits if setting.is_real else dataclasses.replace(recipe.limits, num_slots=6, prefill_images=2)
    return EngineSpec(
        name=f"{setting.size}-{precision}",
        backend="torch",
        precision=precision,
        kv_precision=recipe.kv_precision,
        vision=shape.vision,
        text=shape.text,
        preprocess=Preprocess(shape.vision.image_size, "pad", (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)),
        prompt=PromptSpec(template="llama3", text=PROMPT),
        stop_ids=(),
        limits=Limits(
            max_new_tokens=LONGEST,
            max_text_tokens=max_text_tokens,
            num_slots=sizes.num_slots,
            prefill_images=sizes.prefill_images,
        ),
        cards=recipe.cards if setting.is_real else {},
    )


def _write(folder: Path, setting: Setting, precision: Precision) -> None:
    texts = (f"\n{PROMPT}", "user", "assistant", "\n\n")
    word_vocabulary(texts, setting.shape.text.vocab_size).save(str(folder / "tokenizer.json"))
    prompts = PromptEncoder(load_tokenizer(folder), PromptSpec(template="llama3", text=PROMPT), MAX_FIELD_TOKENS)
    drawn = draw_weights(setting.shape, precision, torch.device(setting.device))
    save_file({name: weight.cpu() for name, weight in drawn}, folder / WEIGHTS_FILE)
    make_spec(setting, precision, prompts.max_text_tokens).save(folder)
