"""The random LLaVAs that the benchmarks run, as checkpoints of the Hub: real shapes, real tokenizer, no training.

    python -m inputs.models 6m /tmp/llava-6m
    python -m inputs.models 8b /dev/shm/llava-8b --device cuda --dtype bfloat16

With random weights the captions are noise, but a step costs what it costs with trained ones, and greedy decoding is
just as exact.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig, PreTrainedModel

from recap_fast.bench.synthetic import train_vocabulary, word_vocabulary

SIZES = {
    # 64 image tokens; about 6 M parameters
    "6m": {
        "text": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "heads": (8, 4), "vocab": 4096},
        "vision": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 5, "heads": 4},
        "image_size": 112,
        "patch_size": 14,
    },
    # 196 image tokens; about 55 M parameters
    "55m": {
        "text": {
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 8,
            "heads": (8, 4),
            "vocab": 16384,
        },
        "vision": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 9, "heads": 6},
        "image_size": 224,
        "patch_size": 16,
    },
    # LLaVA-1.5 on LLaMA-3-8B: 576 image tokens, 16.7 GB in bfloat16
    "8b": {
        "text": {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "heads": (32, 8),
            "vocab": 128256,
        },
        "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "heads": 16},
        "image_size": 336,
        "patch_size": 14,
    },
}
HUB_NAMES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.": "vision_tower.vision_model.",
}
"""A tensor's name in memory begins so, and in the Hub's checkpoints, which all versions of all libraries read, so."""
LEARNT_VOCABULARY = 32768
"""Larger vocabularies are made up: learning one of 128,256 tokens takes minutes."""
PROMPT = "Please generate a detailed caption of this image. Please be as descriptive as possible."


def make_tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level BPE of exactly `vocab_size` tokens, learnt from made-up words and the prompt or made up itself."""
    template = ["user", "\n\n", f"\n{PROMPT}", "assistant"]  # each word becomes a token, as in Llama 3's vocabulary
    if vocab_size > LEARNT_VOCABULARY:
        return word_vocabulary(template, vocab_size)
    rng = np.random.default_rng(0)
    syllables = [c + v for c in "bcdfghjklmnpqrstvwxz" for v in ("a", "e", "i", "o", "u", "ai", "ou")]
    words = [" " + "".join(rng.choice(syllables, rng.integers(1, 5))) for _ in range(2 * vocab_size)]
    corpus = template * 9 + ["".join(words[i : i + 20]) for i in range(0, len(words), 20)] * 2
    return train_vocabulary(corpus, vocab_size)


def make_model(
    size: str, tokenizer: Tokenizer, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A LLaVA-1.5 of one of `SIZES` with random weights, the same for the same size, device and dtype."""
    shape = SIZES[size]
    text, vision = dict(shape["text"]), dict(shape["vision"])
    heads, kv_heads = text.pop("heads")
    text_config = LlamaConfig(
        **{k: v for k, v in text.items() if k != "vocab"},
        vocab_size=tokenizer.get_vocab_size(),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2048,
        rope_theta=500000.0,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.token_to_id("<|begin_of_text|>"),
        eos_token_id=tokenizer.token_to_id("<|eot_id|>"),
    )
    vision_config = CLIPVisionConfig(
        **{k: v for k, v in vision.items() if k != "heads"},
        num_attention_heads=vision["heads"],
        image_size=shape["image_size"],
        patch_size=shape["patch_size"],
        projection_dim=text["hidden_size"],
    )
    config = LlavaConfig(
        text_config=text_config,
        vision_config=vision_config,
        image_token_index=tokenizer.token_to_id("<image>"),
        image_seq_length=(shape["image_size"] // shape["patch_size"]) ** 2,
        architectures=["LlavaForConditionalGeneration"],
    )
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()
    randomize(model, seed=0)
    return model


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int) -> None:
    """Random weights with which every image gets a caption of its own: transformers' give all images nearly the same.

    Matrices keep the variance of what passes through them; the head's are larger, so that the likeliest token leads.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        noise = torch.randn(weight.shape, generator=generator, device=device)
        if "norm" in name and name.endswith("weight"):
            weight.copy_(1 + 0.1 * noise)
        elif weight.ndim == 1 or "position" in name:
            weight.copy_(0.1 * noise)
        elif "embed_tokens" in name:
            weight.copy_(noise)
        else:
            weight.copy_(noise * (3.0 if "lm_head" in name else 1.0) / weight[0].numel() ** 0.5)


def make_checkpoint(size: str, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Path:
    """Writes model, tokenizer and preprocessing of one of `SIZES`, as the Hub has LLaVAs; returns the folder.

    The model is made on `device` and needs room there.
    """
    shape = SIZES[size]
    tokenizer = make_tokenizer(shape["text"]["vocab"])
    model = make_model(size, tokenizer, device, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    weights = {hub_name(name): weight.cpu() for name, weight in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    side = shape["image_size"]
    files = {
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": side},
            "crop_size": {"height": side, "width": side},
            "resample": 3,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
        "processor_config.json": {
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "patch_size": shape["patch_size"],
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "pad_token": "<pad>",
            "extra_special_tokens": {"image_token": "<image>"},
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"{size}: {sum(p.numel() for p in model.parameters()) / 1e6:,.1f} M parameters", file=sys.stderr)
    return folder


def hub_name(name: str) -> str:
    """The name in the Hub's checkpoints of a tensor of transformers' model."""
    return next(hub + name.removeprefix(ours) for ours, hub in HUB_NAMES.items() if name.startswith(ours))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu", help="where it is made")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    args = parser.parse_args()
    make_checkpoint(args.size, args.folder, args.device, getattr(torch, args.dtype))
