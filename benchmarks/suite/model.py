"""LLaVA-LLaMA3-8B or JoyCaption with random weights, without a checkpoint or network.

The engine directory has no weights: they are drawn on the device, since files would take 26 GB and a minute. All
precisions have the same numbers, drawn in bfloat16 and then perhaps quantized to 8 bits. `tiny` has the same parts.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from inputs.shapes import RECIPES, Shape
from inputs.vocabularies import SPECIAL_TOKENS, word_vocabulary
from inputs.weights import random_weight
from recap_fast.build.recipe import Recipe, load_recipe
from recap_fast.defaults import MAX_FIELD_TOKENS
from recap_fast.generate.device import device_name, resolve_device
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.layout import EIGHT_BITS, plan_weights
from recap_fast.generate.ops.linear import quantize_channels
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import WEIGHTS_FILE, EngineSpec, KVPrecision, Limits, Precision, PromptSpec, Sizes
from recap_fast.generate.templates import QUESTION, TEMPLATES, Special
from recap_fast.generate.tokenizer import load_tokenizer
from recap_fast.generate.torch_backend import opening
from recap_fast.generate.torch_backend.sizes import default_sizes
from recap_fast.generate.vision.loading import model_dtype
from recap_fast.records import Preprocess, Request
from suite.setting import SIZES, Setting


def make(setting: Setting, precision: Precision, kv_precision: KVPrecision | None = None) -> PreparedEngine:
    """The engine in this precision, made if it is not there yet; `kv_precision` replaces that of the recipe."""
    folder = setting.work / f"engine-{setting.model}-{precision}"
    if not (folder / "engine.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        recipe = load_recipe(RECIPES[SIZES[setting.model][0]][precision])
        question = recipe.prompts.get(recipe.prompt, recipe.prompt)
        _make_tokenizer(recipe.template, question, setting.shape.text.vocab_size).save(str(folder / "tokenizer.json"))
        prompt = PromptSpec(template=recipe.template, text=question)
        prompts = PromptEncoder(load_tokenizer(folder), prompt, MAX_FIELD_TOKENS)
        _make_spec(setting, recipe, precision, prompt, prompts.max_text_tokens).save(folder)
        (folder / WEIGHTS_FILE).touch()  # `drawn_weights` stands for it
    made = PreparedEngine.read(folder)
    return made if kv_precision is None else made.with_spec(kv_precision=kv_precision)


@contextmanager
def drawn_weights(setting: Setting) -> Iterator[None]:
    """Gives engines that are opened within it random weights instead of those of a file."""

    def draw(_: Path, spec: EngineSpec, device: torch.device, **__: Any) -> dict[str, Tensor]:
        drawn, dtype = draw_weights(setting.shape, spec.precision, device), model_dtype(spec, device)
        return {name: weight.to(dtype) if weight.dtype == torch.bfloat16 else weight for name, weight in drawn}

    with mock.patch.object(opening, "load_weights", draw):
        yield


def options(setting: Setting, **more: Any) -> EngineOptions:
    """An engine that ends no caption before its length."""
    return EngineOptions(
        device=setting.device,
        num_slots=setting.num_slots,
        prefill_images=setting.prefill_images,
        loop_stop=False,
        **more,
    )


def sizes(setting: Setting, made: PreparedEngine) -> Sizes:
    """Slots and images of a prefill, as the engine gets them where they fit."""
    device = resolve_device(setting.device)
    default = default_sizes(made.spec, device_name(device), is_cpu=device.type == "cpu")
    num_slots = setting.num_slots or default.num_slots
    return Sizes(num_slots=num_slots, prefill_images=min(setting.prefill_images or default.prefill_images, num_slots))


def make_requests(made: PreparedEngine, lengths: Sequence[int], pixels: NDArray[np.uint8]) -> list[Request]:
    """A request for each length, over the pictures in turn."""
    text_ids = made.prompts.text_ids({})[0]
    return [Request(i, pixels[i % len(pixels)], text_ids, length) for i, length in enumerate(lengths)]


def random_pixels(made: PreparedEngine, count: int) -> NDArray[np.uint8]:
    """Noise images, uint8 [count, 3, side, side]."""
    side = made.spec.preprocess.image_size
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


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


def _make_tokenizer(name: str, question: str, vocab_size: int) -> Tokenizer:
    """One in which each word of the question, and of the template of that name, is a token."""
    template = TEMPLATES[name]
    pieces = (*template.before, *template.after)
    texts = [piece.replace(QUESTION, question) for piece in pieces if not isinstance(piece, Special)]
    special = dict.fromkeys([*SPECIAL_TOKENS, *(piece for piece in pieces if isinstance(piece, Special))])
    return word_vocabulary(texts, vocab_size, list(special))


def _make_spec(
    setting: Setting, recipe: Recipe, precision: Precision, prompt: PromptSpec, max_text_tokens: int
) -> EngineSpec:
    """engine.json of the engine."""
    shape, sizes = setting.shape, recipe.limits
    if not setting.is_real:
        sizes = dataclasses.replace(sizes, num_slots=6, prefill_images=2)
    return EngineSpec(
        name=f"{setting.model}-{setting.size}-{precision}",
        backend="torch",
        precision=precision,
        kv_precision=recipe.kv_precision,
        vision=shape.vision,
        text=shape.text,
        preprocess=Preprocess(shape.vision.image_size, "pad", (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)),
        prompt=prompt,
        stop_ids=(),
        limits=Limits(
            max_new_tokens=sizes.max_new_tokens,
            max_text_tokens=max_text_tokens,
            num_slots=sizes.num_slots,
            prefill_images=sizes.prefill_images,
        ),
        cards=recipe.cards if setting.is_real else {},
    )
