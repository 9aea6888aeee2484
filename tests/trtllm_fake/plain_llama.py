"""A plain Llama's directory, split from a LLaVA in memory: what the flows read, for tests of the fake alone."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def write_plain_llama(model: Any, folder: Path, architecture: str = "LlamaForCausalLM") -> Path:
    """Writes the language model of transformers' LLaVA as a Hugging Face directory that transformers 4.57 reads too."""
    folder.mkdir(parents=True)
    text = model.config.text_config
    rope = dict(text.rope_parameters)
    theta = rope.pop("rope_theta")
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names = (
        *names,
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
    )
    config = {
        "architectures": [architecture],
        "model_type": "llama",
        **{name: getattr(text, name) for name in names},
        "tie_word_embeddings": text.tie_word_embeddings,
        "rope_theta": theta,
        "rope_scaling": None if rope.get("rope_type", "default") == "default" else rope,
        "torch_dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {
        name.replace("model.language_model.", "model."): tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.startswith(("model.language_model.", "lm_head."))
    }
    if text.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    save_file(tensors, folder / "model.safetensors")
    return folder


@torch.inference_mode()
def image_table(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Image tokens [n, D] of one image, from transformers' own tower and projector."""
    features = model.get_image_features(pixel_values=pixel_values)
    return torch.cat(list(getattr(features, "pooler_output", features)), dim=0).contiguous()
