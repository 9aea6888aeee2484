"""transformers' `generate` beside the engine: the same random weights, images and lengths, batches of 64, sdpa.

Weights are those of the engine's file, taken apart again. Its own preprocessing is left out: it gets normalized pixels
on the device.
"""

import time
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from recap_fast.bench.stages import caption_all
from recap_fast.build.architecture import Architecture
from recap_fast.generate.backends import open_engine
from recap_fast.generate.spec import WEIGHTS_FILE, EngineSpec
from suite import model
from suite.setting import Found, Setting

BATCH, TINY_BATCH, NUM_TOKENS, TINY_TOKENS = 64, 2, 65, 6
THEIRS = {
    "text.": "model.language_model.",
    "head.": "lm_head.",
    "projector.0.": "model.multi_modal_projector.linear_1.",
    "projector.1.": "model.multi_modal_projector.linear_2.",
    "vision.": "model.vision_tower.",
}
"""Our names of a checkpoint's tensors begin so, and transformers' in memory so."""


def run(setting: Setting) -> Found:
    """bfloat16, one length for all: what static batches do best."""
    found, made = setting.find("transformers"), model.make(setting, "bfloat16")
    batch, tokens = (BATCH, NUM_TOKENS) if setting.is_real else (TINY_BATCH, TINY_TOKENS)
    pixels = made.random_pixels(batch)
    engine = open_engine(made.folder, made.spec, model.options(setting), made.prefix_ids)
    ours = {c.id: c.token_ids.tolist() for c in caption_all(engine, made.requests([tokens] * batch, pixels))}
    engine.close()
    theirs = load(made, setting.device)
    inputs = _inputs(made, pixels, setting.device)
    generate(theirs, inputs, 4)
    start = time.perf_counter()
    captions = generate(theirs, inputs, tokens)
    rate = batch / (time.perf_counter() - start)
    found.add(f"transformers, batch {batch}, {tokens} tokens", f"{rate:,.1f} images/s")
    if window := setting.found_by("step").get("bfloat16", {}).get("65"):
        found.add("   the engine in bfloat16 is", f"{window['images'] / window['seconds'] / rate:.1f} times as fast")
    same = [ours[i][0] == caption[0] for i, caption in enumerate(captions)]
    found.add("   first tokens as the engine's", f"{np.mean(same):.0%}")
    found.details = {"images_per_s": rate, "captions": captions}
    return found


def load(made: model.Model, device: str) -> LlavaForConditionalGeneration:
    """transformers' model with the engine's weights; the last layer of its tower, which nobody reads, keeps its own."""
    spec = made.spec
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        theirs = LlavaForConditionalGeneration(_config(spec)).eval()
        torch.set_default_dtype(torch.float32)
    parameters = dict(theirs.named_parameters())
    architecture = Architecture(
        vision=spec.vision,
        text=spec.text,
        num_vision_layers=spec.vision.num_layers + 1,
        projector_bias=True,
        eos_ids=(),
        preprocess_mode="pad",
    )
    with safe_open(made.folder / WEIGHTS_FILE, "pt", device=device) as file, torch.no_grad():
        for tensor in architecture.plan():
            rows = file.get_tensor(tensor.name).reshape(-1, *next(iter(tensor.sources.values()))[1:])
            counts = [shape[0] for shape in tensor.sources.values()]
            for name, part in zip(tensor.sources, rows.split(counts), strict=True):
                parameters[_their_name(name)].copy_(part)
    return theirs


@torch.inference_mode()
def generate(theirs: LlavaForConditionalGeneration, inputs: dict[str, Any], tokens: int) -> list[list[int]]:
    """Greedy captions of exactly so many tokens."""
    theirs.generation_config.eos_token_id = None
    out = theirs.generate(**inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


def _their_name(ours: str) -> str:
    return next(their + ours.removeprefix(our) for our, their in THEIRS.items() if ours.startswith(our))


def _config(spec: EngineSpec) -> LlavaConfig:
    vision, text = spec.vision, spec.text
    return LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_hidden_layers=text.num_layers,
            num_attention_heads=text.num_heads,
            num_key_value_heads=text.num_kv_heads,
            max_position_embeddings=text.max_positions,
            rms_norm_eps=text.norm_eps,
            rope_theta=text.rope.theta,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_layers + 1,
            num_attention_heads=vision.num_heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            projection_dim=vision.hidden_size,
        ),
        image_token_index=text.vocab_size - 2,
        image_seq_length=vision.num_image_tokens,
        attn_implementation="sdpa",
    )


def _inputs(made: model.Model, pixels: np.ndarray, device: str) -> dict[str, torch.Tensor]:
    spec = made.spec
    image = [spec.text.vocab_size - 2] * spec.vision.num_image_tokens
    ids = torch.tensor([[*made.prefix_ids, *image, *made.prompts.text_ids({})[0].tolist()]], device=device)
    ids = ids.expand(len(pixels), -1)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (spec.preprocess.mean, spec.preprocess.std))
    values = (torch.from_numpy(pixels).to(device).float() / 255 - mean) / std
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": values.to(torch.bfloat16)}
