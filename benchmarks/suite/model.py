"""LLaVA-LLaMA3-8B with random weights as an engine directory, made on the device: no checkpoint, no network.

The same numbers whatever the precision: bfloat16 first, then perhaps 8 bits of it. `tiny` has the same parts.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from recap_fast.bench.synthetic import word_vocabulary
from recap_fast.build.architecture import Architecture
from recap_fast.build.recipe import PROMPT, load_recipe
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.layout import EIGHT_BITS, FusedTensor
from recap_fast.generate.ops.linear import quantize_channels
from recap_fast.generate.prompt import PromptEncoder
from recap_fast.generate.spec import (
    WEIGHTS_FILE,
    EngineSpec,
    Limits,
    Precision,
    PromptSpec,
    RopeSpec,
    TextSpec,
    VisionSpec,
)
from recap_fast.generate.tokenizer import load_tokenizer
from recap_fast.records import Preprocess, Request
from suite.setting import Setting

MAX_NEW_TOKENS = 128
RECIPES = {"bfloat16": "llava_llama3_8b", "fp8": "llava_llama3_8b_fp8", "int8": "llava_llama3_8b_int8"}
CLIP = {"activation": "quick_gelu", "norm_eps": 1e-5}
LLAMA3 = {"max_positions": 8192, "norm_eps": 1e-5, "tied_head": False, "rope": RopeSpec(theta=500000.0)}
SHAPES = {
    "real": (
        VisionSpec(
            hidden_size=1024,
            intermediate_size=4096,
            num_layers=23,
            num_heads=16,
            image_size=336,
            patch_size=14,
            **CLIP,
        ),
        TextSpec(
            hidden_size=4096,
            intermediate_size=14336,
            num_layers=32,
            num_heads=32,
            num_kv_heads=8,
            head_dim=128,
            vocab_size=128256,
            **LLAMA3,
        ),
    ),
    "tiny": (
        VisionSpec(
            hidden_size=48, intermediate_size=96, num_layers=2, num_heads=3, image_size=32, patch_size=8, **CLIP
        ),
        TextSpec(
            hidden_size=64,
            intermediate_size=160,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            vocab_size=640,
            **LLAMA3,
        ),
    ),
}


@dataclass(frozen=True)
class Model:
    """An engine directory and what goes into it."""

    folder: Path
    spec: EngineSpec
    prompts: PromptEncoder

    @property
    def prefix_ids(self) -> list[int]:
        """Token ids before the image."""
        return self.prompts.prefix_ids.tolist()

    def requests(self, lengths: Sequence[int], pixels: NDArray[np.uint8]) -> list[Request]:
        """A request for each length, over the pictures in turn."""
        text_ids = self.prompts.text_ids({})[0]
        return [Request(i, pixels[i % len(pixels)], text_ids, length) for i, length in enumerate(lengths)]

    def random_pixels(self, count: int) -> NDArray[np.uint8]:
        """Noise images."""
        side = self.spec.preprocess.image_size
        return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def options(setting: Setting, **more: object) -> EngineOptions:
    """An engine that ends no caption before its length."""
    return EngineOptions(
        device=setting.device,
        num_slots=setting.num_slots,
        prefill_images=setting.prefill_images,
        loop_stop=False,
        **more,
    )


def make(setting: Setting, precision: Precision) -> Model:
    """The engine in this precision, made if it is not there yet."""
    folder = setting.work / f"engine-{precision}"
    if not (folder / "engine.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, setting, precision)
    spec = EngineSpec.load(folder)
    prompts = PromptEncoder(load_tokenizer(folder), spec.prompt, 128, spec.limits.max_text_tokens)
    return Model(folder, spec, prompts)


def best_precision(setting: Setting) -> Precision:
    """FP8 where the card has it."""
    has_fp8 = setting.device == "cpu" or torch.cuda.get_device_capability() >= (8, 9)
    return "fp8" if has_fp8 else "int8"


def _write(folder: Path, setting: Setting, precision: Precision) -> None:
    vision, text = SHAPES[setting.size]
    texts = (f"\n{PROMPT}", "user", "assistant", "\n\n")
    word_vocabulary(texts, text.vocab_size).save(str(folder / "tokenizer.json"))
    prompt = PromptSpec(template="llama3", text=PROMPT)
    prompts = PromptEncoder(load_tokenizer(folder), prompt, 128)
    recipe = load_recipe(RECIPES[precision])
    sizes = recipe.limits if setting.is_real else dataclasses.replace(recipe.limits, num_slots=6, prefill_images=2)
    architecture = Architecture(
        vision=vision,
        text=text,
        num_vision_layers=vision.num_layers + 1,
        projector_bias=True,
        eos_ids=(),
        preprocess_mode="pad",
    )
    tensors: dict[str, torch.Tensor] = {}
    for number, tensor in enumerate(architecture.plan()):
        tensors |= _random(tensor, number, precision, torch.device(setting.device))
    save_file(tensors, folder / WEIGHTS_FILE)
    EngineSpec(
        name=f"llava-llama3-8b-{precision}" if setting.is_real else f"tiny-{precision}",
        backend="torch",
        precision=precision,
        vision=vision,
        text=text,
        preprocess=Preprocess(vision.image_size, "pad", (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)),
        prompt=prompt,
        stop_ids=(),
        limits=Limits(
            max_new_tokens=MAX_NEW_TOKENS,
            max_text_tokens=prompts.max_text_tokens,
            num_slots=sizes.num_slots,
            prefill_images=sizes.prefill_images,
        ),
        cards=recipe.cards if setting.is_real else {},
    ).save(folder)


def _random(tensor: FusedTensor, seed: int, precision: Precision, device: torch.device) -> dict[str, torch.Tensor]:
    """A tensor of the plan, and its scales if it is in 8 bits: what passes through a matrix keeps its variance."""
    generator = torch.Generator(device).manual_seed(seed)
    noise = torch.randn(tensor.shape, generator=generator, device=device)
    if "norm" in tensor.name and tensor.name.endswith("weight"):
        noise = 1 + 0.1 * noise
    elif noise.ndim == 1 or "position" in tensor.name:
        noise *= 0.1
    elif "embed" not in tensor.name:
        noise *= (3.0 if "head" in tensor.name else 1.0) / tensor.shape[-1] ** 0.5
    if not (tensor.is_text_linear and precision in EIGHT_BITS):
        return {tensor.name: noise.to(torch.bfloat16).cpu()}
    values, scale = quantize_channels(noise.to(torch.bfloat16), EIGHT_BITS[precision].dtype)
    return {tensor.name: values.cpu(), f"{tensor.name.removesuffix('.weight')}.scale": scale.cpu()}
