"""Random LLaVA checkpoints in every layout that build-engine reads.

    model = make_checkpoint(folder, "original", text={"tie_word_embeddings": True}, dtype=torch.float16)

`model` is transformers' own, with the very weights that were written: the reference of the engine's parity tests.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlavaConfig,
    PreTrainedConfig,
    SiglipVisionConfig,
)
from transformers import LlavaForConditionalGeneration as Llava
from transformers.utils.logging import disable_progress_bar

from inputs.shapes import SHAPES, Shape, clip_fields, llama_fields
from inputs.vocabularies import write_tokenizer
from inputs.weights import randomize

PREFIXES: dict[str, dict[str, str]] = {
    "original": {
        "model.language_model.": "model.",
        "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
        "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
        "model.vision_tower.": "model.vision_tower.vision_tower.vision_model.",
    },
    "hf4": {
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.vision_tower.": "vision_tower.vision_model.",
    },
    "memory4": {"model.vision_tower.": "model.vision_tower.vision_model."},
    "memory5": {},
    "hf5": {
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.vision_tower.": "vision_tower.",
    },
}
"""How a tensor's name begins in each layout, by how it begins in memory under transformers 5.

Layouts are those of the original LLaVA; transformers 4 on disk, which all versions of all libraries read; 4.52 and
later in memory; 5 in memory; 5 on disk.
"""
LAYOUTS = tuple(PREFIXES)
ORIGINAL: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"]},
    "mistral": {"model_type": "llava_mistral", "architectures": ["LlavaMistralForCausalLM"]},
    "qwen2": {"model_type": "llava", "architectures": ["LlavaQwenForCausalLM"]},
    "qwen3": {"model_type": "llava_qwen3", "architectures": ["LlavaQwen3ForCausalLM"]},
}
"""What the original LLaVA's config calls itself, by the model_type of its decoder."""
LLAMA31_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
"""Llama 3.1's positions, scaled from so few that those of a tiny model reach beyond them."""


def make_checkpoint(
    folder: Path,
    layout: str = "hf5",
    *,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    llava: dict[str, Any] | None = None,
    dtype: torch.dtype | tuple[torch.dtype, torch.dtype] = torch.float32,
    tokenizer: str | None = "byte_level",
    preprocess: str | None = "pad",
    num_files: int = 1,
    seed: int = 0,
) -> Llava:
    """Writes a tiny checkpoint and returns its model; equal arguments but the layout give equal weights.

    `text`, `vision` and `llava` add to the parts of the config, and `text` may name another decoder's `model_type`;
    `dtype` may be two: the vision tower's comes second; `tokenizer` is 'byte_level', 'tiktoken', 'llama2', 'qwen' or
    None; `preprocess` is 'pad', 'crop', 'stretch' (SigLIP's) or None (no file). With `num_files` over 1 there is an
    index.
    """
    disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    special = write_tokenizer(folder, tokenizer or "byte_level")
    if tokenizer is None:
        (folder / "tokenizer.json").unlink()
    ids = {
        "vocab_size": max(special.values()) + 1,
        "bos_token_id": min(special.values()),
        "eos_token_id": next(special[name] for name in ("<|eot_id|>", "</s>", "<|im_end|>") if name in special),
    }
    image_token = special.get("<image>", ids["vocab_size"] - 1)
    config = make_config(SHAPES["tiny"], image_token, text={**ids, **(text or {})}, vision=vision, llava=llava)
    model = make_model(config, seed=seed)
    text_dtype, vision_dtype = dtype if isinstance(dtype, tuple) else (dtype, dtype)
    model.to(text_dtype).model.vision_tower.to(vision_dtype)
    _write(model, folder, layout, num_files)
    if preprocess is not None and layout != "original":
        write_preprocess(folder, preprocess, config.vision_config.image_size)
    elif layout == "original":
        _update(folder / "config.json", image_aspect_ratio="square" if preprocess == "stretch" else preprocess)
    return model


def make_config(
    shape: Shape,
    image_token: int,
    *,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    llava: dict[str, Any] | None = None,
) -> LlavaConfig:
    """transformers' config of a shape; `text`, `vision` and `llava` add to its parts or change them.

    The `model_type` "siglip_vision_model" in `vision` makes it a SigLIP, with its defaults where a shape says nothing.
    `text` may hold a `model_type` other than llama.
    """
    fields = {**llama_fields(shape.text), **(text or {})}
    given = {**clip_fields(shape.vision), **(vision or {})}
    is_siglip = given.pop("model_type", None) == "siglip_vision_model"
    tower = SiglipVisionConfig(**given) if is_siglip else CLIPVisionConfig(**given)
    more = {
        "image_token_index": image_token,
        "image_seq_length": (tower.image_size // tower.patch_size) ** 2,
        "vision_feature_select_strategy": shape.vision.select,
    }
    return LlavaConfig(
        text_config=CONFIG_MAPPING[fields.pop("model_type", "llama")](**fields),
        vision_config=tower,
        **{**more, **(llava or {})},
    )


def make_model(config: LlavaConfig, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Llava:
    """A model with random weights, the same for the same config, seed, device and dtype."""
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()
    randomize(model, seed)
    return model


def write_preprocess(folder: Path, mode: str, image_size: int) -> None:
    """A preprocessor_config.json of LLaVA's ('pad'), CLIP's ('crop') or SigLIP's ('stretch') image processor."""
    content: dict[str, Any] = {
        "image_processor_type": "LlavaImageProcessor" if mode == "pad" else "CLIPImageProcessor",
        "do_pad": mode == "pad",
        "size": {"shortest_edge": image_size},
        "crop_size": {"height": image_size, "width": image_size},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    if mode == "stretch":
        square = {"size": {"height": image_size, "width": image_size}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        content = {"image_processor_type": "SiglipImageProcessor", "resample": 3, "rescale_factor": 1 / 255, **square}
    (folder / "preprocessor_config.json").write_text(json.dumps(content), encoding="utf-8")


def _write(model: Llava, folder: Path, layout: str, num_files: int) -> None:
    if layout == "hf5":
        size = sum(p.nbytes for p in model.parameters())
        model.save_pretrained(folder, max_shard_size=size if num_files == 1 else size // num_files)
        return
    tensors = named_tensors(model, layout)
    config = _original_config(model.config) if layout == "original" else _transformers4_config(model.config)
    if layout == "memory5":
        config = model.config.to_dict()
    elif layout == "original":
        (folder / "clip").mkdir(exist_ok=True)
        (folder / "clip" / "config.json").write_text(json.dumps(_without_defaults(model.config.vision_config)))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_files(tensors, folder, num_files)


def named_tensors(model: Llava, layout: str) -> dict[str, Tensor]:
    """The tensors of a model on the CPU, by their names in a layout's files."""
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return {_renamed(name, PREFIXES[layout]): tensor.cpu() for name, tensor in state.items()}


def save_files(tensors: dict[str, Tensor], folder: Path, num_files: int = 1) -> None:
    """Writes tensors as one model.safetensors, or as several files and an index."""
    if num_files == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i in range(num_files):
        file = f"model-{i + 1:05d}-of-{num_files:05d}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[i::num_files]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _renamed(name: str, prefixes: dict[str, str]) -> str:
    for prefix, other in prefixes.items():
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return name


def _transformers4_config(config: LlavaConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": config.image_token_index,
        "text_config": _transformers4_text(config.text_config),
        "vision_config": _without_defaults(config.vision_config),
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "torch_dtype": "float16",
    }


def _original_config(config: LlavaConfig) -> dict[str, Any]:
    return {
        **_transformers4_text(config.text_config),
        **ORIGINAL[config.text_config.model_type],
        "mm_vision_tower": "clip",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": "patch" if config.vision_feature_select_strategy == "default" else "cls_patch",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_hidden_size": config.vision_config.hidden_size,
        "use_mm_proj": True,
    }


def _transformers4_text(config: PreTrainedConfig) -> dict[str, Any]:
    """As version 4 writes it: `rope_theta` and `rope_scaling`."""
    content = _without_defaults(config)
    rope = dict(config.rope_parameters)
    theta = rope.pop("rope_theta")
    content.pop("rope_parameters", None)
    scaling = None if rope.get("rope_type", "default") == "default" else rope
    return {**content, "rope_theta": theta, "rope_scaling": scaling}


def _without_defaults(config: Any) -> dict[str, Any]:
    """The fields that differ from the class's defaults, and the type."""
    default = type(config)().to_dict()
    content = {k: v for k, v in config.to_dict().items() if k not in default or default[k] != v}
    return {**content, "model_type": config.model_type}


def _update(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=2))
