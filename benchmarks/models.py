"""The random LLaVAs that the benchmarks run, as checkpoints of the Hub: real shapes, real tokenizer, no training.

    python benchmarks/models.py 6m /tmp/llava-6m

With random weights the captions are noise, but a step costs what it costs with trained ones, and greedy decoding is
just as exact.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from recap_fast.synthetic import train_vocabulary

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
}
PROMPT = "Please generate a detailed caption of this image. Please be as descriptive as possible."


def make_tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level BPE of exactly `vocab_size` tokens, learnt from made-up words and the prompt."""
    rng = np.random.default_rng(0)
    syllables = [c + v for c in "bcdfghjklmnpqrstvwxz" for v in ("a", "e", "i", "o", "u", "ai", "ou")]
    words = [" " + "".join(rng.choice(syllables, rng.integers(1, 5))) for _ in range(2 * vocab_size)]
    template = ["user", "\n\n", f"\n{PROMPT}", "assistant"]  # each word becomes a token, as in Llama 3's vocabulary
    corpus = template * 9 + ["".join(words[i : i + 20]) for i in range(0, len(words), 20)] * 2
    return train_vocabulary(corpus, vocab_size)


def make_model(size: str, tokenizer: Tokenizer) -> LlavaForConditionalGeneration:
    """A LLaVA-1.5 of one of `SIZES` with random weights, the same for the same size."""
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
    )
    model = LlavaForConditionalGeneration(config).eval()
    randomize(model, seed=0)
    return model


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int) -> None:
    """Random weights with which every image gets a caption of its own: transformers' give all images nearly the same.

    Matrices keep the variance of what passes through them; the head's are larger, so that the likeliest token leads.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            weight.copy_(1 + 0.1 * noise)
        elif weight.ndim == 1 or "position" in name:
            weight.copy_(0.1 * noise)
        elif "embed_tokens" in name:
            weight.copy_(noise)
        else:
            weight.copy_(noise * (3.0 if "lm_head" in name else 1.0) / weight[0].numel() ** 0.5)


def make_checkpoint(size: str, folder: Path) -> Path:
    """Writes model, tokenizer and preprocessing of one of `SIZES`, as the Hub has LLaVAs; returns the folder."""
    shape = SIZES[size]
    tokenizer = make_tokenizer(shape["text"]["vocab"])
    model = make_model(size, tokenizer)
    disable_progress_bar()
    model.save_pretrained(folder)
    rename_vision_tower(folder / "model.safetensors")
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
    print(f"{size}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters in {folder}")
    return folder


def rename_vision_tower(file: Path) -> None:
    """Gives the vision tower's weights the names of the Hub's checkpoints, which all versions of all libraries read."""
    old, new = "vision_tower.", "vision_tower.vision_model."
    weights = load_file(file)
    renamed = {key if key.startswith(new) else key.replace(old, new, 1): value for key, value in weights.items()}
    save_file(renamed, file, metadata={"format": "pt"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    make_checkpoint(args.size, args.folder)
