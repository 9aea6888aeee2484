"""The random LLaVAs that contests run, as checkpoints of the Hub: real shapes, real tokenizer, no training.

    python benchmarks/inputs 6m /tmp/llava-6m
    python benchmarks/inputs 8b /dev/shm/llava-8b --device cuda --dtype bfloat16

With random weights the captions are noise, but a step costs what it costs with trained ones, and greedy decoding is
just as exact.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from inputs import checkpoints
from inputs.shapes import SHAPES
from inputs.vocabularies import train_vocabulary, word_vocabulary

LEARNT_VOCABULARY = 32768
"""Larger vocabularies are made up: learning one of 128,320 tokens takes minutes."""
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


def make_checkpoint(size: str, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Path:
    """Writes model, tokenizer and preprocessing of one of `SHAPES`, as the Hub has LLaVAs; returns the folder.

    The model is made on `device` and needs room there. The same size, device and dtype give the same weights.
    """
    shape = SHAPES[size]
    tokenizer = make_tokenizer(shape.text.vocab_size)
    ids = {
        "vocab_size": tokenizer.get_vocab_size(),
        "bos_token_id": tokenizer.token_to_id("<|begin_of_text|>"),
        "eos_token_id": tokenizer.token_to_id("<|eot_id|>"),
    }
    more = {"architectures": ["LlavaForConditionalGeneration"]}
    config = checkpoints.make_config(shape, tokenizer.token_to_id("<image>"), text=ids, llava=more)
    model = checkpoints.make_model(config, device=device, dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    checkpoints.save_files(checkpoints.named_tensors(model, "hf4"), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    is_clip = shape.vision.has_class_token
    checkpoints.write_preprocess(folder, "crop" if is_clip else "stretch", shape.vision.image_size)
    files = {
        "processor_config.json": {
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "patch_size": shape.vision.patch_size,
            "vision_feature_select_strategy": shape.vision.select,
            "num_additional_image_tokens": int(is_clip),
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


def main() -> int:
    """Makes one, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu", help="where it is made")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    args = parser.parse_args()
    make_checkpoint(args.size, args.folder, args.device, getattr(torch, args.dtype))
    return 0
