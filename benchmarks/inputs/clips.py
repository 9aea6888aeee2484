"""CLIPs of random weights in the layout of transformers, with a tokenizer of words: for tests and benchmarks."""

import math
from pathlib import Path
from typing import Any, Literal

import torch

Architecture = Literal["clip", "siglip"]
WORDS = (
    "a the an and of in on with at is are one two three four five six large small red green blue yellow purple orange "
    "white black gray pink background circle circles square squares triangle triangles star stars cross crosses ring "
    "rings top bottom left right center corner image shows there alt text for sale free photo"
)


def make_clip(
    folder: Path,
    architecture: Architecture = "clip",
    *,
    tokens: int = 77,
    image_size: int = 112,
    hidden_size: int = 256,
    num_layers: int = 6,
    **changes: Any,
) -> Path:
    """Writes a model and returns its folder; `tokens` is 77 in CLIP, 248 in LongCLIP, 64 in SigLIP.

    `changes` go into the configuration of the text tower.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    size = {"hidden_size": hidden_size, "intermediate_size": 4 * hidden_size, "num_hidden_layers": num_layers}
    size["num_attention_heads"] = hidden_size // 64 or 1
    tokenizer = _make_tokenizer(architecture, tokens)
    text = {**size, "max_position_embeddings": tokens, "vocab_size": len(tokenizer), "projection_size": hidden_size}
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    vision = {**size, "image_size": image_size, "patch_size": 16}
    kind = "CLIP" if architecture == "clip" else "Siglip"
    config = getattr(transformers, f"{kind}Config")(
        text_config={**text, **marks, **changes}, vision_config=vision, projection_dim=hidden_size
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(config)
    _randomize(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _processor(architecture, image_size).save_pretrained(folder)
    return folder


def _make_tokenizer(architecture: Architecture, tokens: int) -> Any:
    """Words and, where a word is unknown, its letters. The end mark is the highest id, as in CLIP."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([WORDS] * 8, trainer)
    tokenizer.add_special_tokens(["<pad>", "<begin>", "<end>"])
    begin, end = tokenizer.token_to_id("<begin>"), tokenizer.token_to_id("<end>")
    template = "<begin> $A <end>" if architecture == "clip" else "$A <end>"
    special = [("<begin>", begin), ("<end>", end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=tokens,
        bos_token="<begin>",
        eos_token="<end>",
        pad_token="<end>" if architecture == "clip" else "<pad>",
    )


def _randomize(model: torch.nn.Module) -> None:
    """Weights that tell inputs apart: those of transformers' own start give all images almost the same features."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" in name:
                parameter.normal_(0, 0.5 if parameter.dim() < 4 else 1 / math.sqrt(parameter[0].numel()))
            elif parameter.dim() > 1:
                parameter.normal_(0, 1 / math.sqrt(parameter.shape[-1]))


def _processor(architecture: Architecture, image_size: int) -> Any:
    import importlib

    square = {"height": image_size, "width": image_size}
    name = architecture
    module = importlib.import_module(f"transformers.models.{name}.image_processing_pil_{name}")
    if architecture == "siglip":
        return module.SiglipImageProcessorPil(size=square)
    return module.CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=square)
