"""Splits a LLaVA checkpoint: the language model becomes a plain Llama, vision tower and projector stay ours.

TensorRT-LLM reads no LLaVA-1.5 checkpoint: it takes model_type `llava_llama` for VILA, and looks for other weight names
where "llava" or "vila" is in a path. So it is given a folder of a plain Llama, below a path that has neither word.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recap_fast.build.checkpoint import Checkpoint
from recap_fast.build.weights import write_weights
from recap_fast.errors import ConfigError
from recap_fast.generate.layout import FusedTensor, plan_text
from recap_fast.generate.model_spec import TextSpec
from recap_fast.generate.spec import EngineSpec
from recap_fast.progress import OnProgress

TRAPS = ("llava", "vila")
WEIGHTS = "model.safetensors"


@contextmanager
def neutral_folder(beside: Path) -> Iterator[Path]:
    """A temporary folder whose path does not tell TensorRT-LLM that a LLaVA or a VILA lies in it.

    On the disk of `beside` if its path is neutral too, for there will be room for the engine; else where temporary
    files go. Raises ConfigError where that path has one of the words as well.
    """
    parents = [beside.resolve().parent, Path(tempfile.gettempdir()).resolve()]
    parent = next((p for p in parents if is_neutral(p)), None)
    if parent is None:
        raise ConfigError(
            f"TensorRT-LLM reads a checkpoint differently if {' or '.join(TRAPS)} is in its path, as in {parents[0]} "
            f"and {parents[1]}. Set TMPDIR to a folder whose path has neither, with room for the language model."
        )
    with tempfile.TemporaryDirectory(prefix=".recap-", suffix=".building", dir=parent) as name:
        folder = Path(name)
        if not is_neutral(folder):  # the random part has eight characters, enough for each of the words
            raise ConfigError(f"The temporary folder {folder} has one of these words in its random name: start again.")
        yield folder


def is_neutral(path: Path) -> bool:
    return not any(word in str(path).lower() for word in TRAPS)


def write_language_model(folder: Path, spec: EngineSpec, checkpoint: Checkpoint, progress: OnProgress) -> None:
    """Makes a folder as transformers' Llama has it: config.json and model.safetensors in the engine's precision."""
    folder.mkdir(parents=True)
    config = llama_config(spec)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = {"eos_token_id": list(spec.stop_ids), "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    write_weights(folder / WEIGHTS, plan_llama(spec.text), checkpoint, spec.compute_precision, progress)


def add_tokenizer(folder: Path, file: Path, bos: str | None, eos: str) -> None:
    """Puts a tokenizer.json where transformers' AutoTokenizer finds all that it wants of it."""
    shutil.copyfile(file, folder / "tokenizer.json")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def plan_llama(text: TextSpec) -> list[FusedTensor]:
    """The tensors of transformers' LlamaForCausalLM; a head that is tied to the embedding is written out."""
    plan = []
    for tensor in plan_text(text):
        for name, shape in tensor.sources.items():
            theirs = name.replace("text.", "model.", 1) if name.startswith("text.") else f"lm_{name}"
            plan.append(FusedTensor(theirs, {name: shape}))
    if text.tied_head:
        plan.append(FusedTensor("lm_head.weight", plan[0].sources))
    return plan


def llama_config(spec: EngineSpec) -> dict[str, Any]:
    """The config.json, in the spelling of transformers 4."""
    text, rope = spec.text, spec.text.rope
    scaling = {
        "rope_type": "llama3",
        "factor": rope.factor,
        "low_freq_factor": rope.low_freq_factor,
        "high_freq_factor": rope.high_freq_factor,
        "original_max_position_embeddings": rope.original_max_positions,
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": spec.compute_precision,
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_layers,
        "num_attention_heads": text.num_heads,
        "num_key_value_heads": text.num_kv_heads,
        "head_dim": text.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": text.max_positions,
        "rms_norm_eps": text.norm_eps,
        "rope_theta": rope.theta,
        "rope_scaling": None if rope.factor is None else scaling,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "eos_token_id": list(spec.stop_ids),
    }
