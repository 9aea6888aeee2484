"""The arithmetic behind the fake: transformers' Llama on the CPU, from ids and an embedding table.

Ids of vocab_size and above take the rows of the table: id vocab_size + r is row r (promptTuningBuffers.cpp, with each
request its own task, so that its ids begin at vocab_size again).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from support.tensorrt_fake.strict import TrapError
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Checkpoint:
    """A plain Llama as files have it: transformers' config and tensors."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> "Checkpoint":
        """Reads a Hugging Face directory. Raises TrapError for what the library would take for something else."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") != "llama":
            raise TrapError(f"{folder}: model_type is {config.get('model_type')!r}, and only 'llama' is a plain Llama")
        if "rope_theta" not in config:
            raise TrapError(f"{folder}: transformers 4.57 reads rope_theta, and takes 10000 where there is none")
        return cls(config, safetensors.torch.load_file(folder / "model.safetensors"))

    def save(self, path: Path) -> None:
        safetensors.torch.save_file(self.tensors, path, metadata={"config": json.dumps(self.config)})

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        with safetensors.safe_open(path, "pt") as file:
            return cls(json.loads(file.metadata()["config"]), {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118

    def model(self, dtype: str) -> Any:
        """transformers' model, rotary positions in float32. Raises RuntimeError for missing and unknown tensors."""
        model = LlamaForCausalLM(LlamaConfig(**self.config)).eval()
        model.load_state_dict(self.tensors)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(DTYPES[dtype])
        return model


def embed(model: Any, ids: Sequence[int], table: Tensor | None) -> Tensor:
    """[1, n, D] of ids [n], those above the vocabulary from the table [rows, D]."""
    words = model.model.embed_tokens
    given = torch.tensor(ids)
    x = words(given.clamp(max=words.num_embeddings - 1))
    is_image = given >= words.num_embeddings
    if table is not None:
        x[is_image] = table[given[is_image] - words.num_embeddings].to(x)
    return x[None]


@torch.inference_mode()
def generate(model: Any, embeds: Tensor, request: Any, max_tokens: int) -> tuple[list[int], str]:
    """Tokens after embeddings [1, n, D], and their FinishReason by name. A stop word stays among them, end_id not."""
    choose, tokens, cache = chooser(request.sampling_config), [], None
    while len(tokens) < max_tokens:
        output = model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        token, cache = choose(output.logits[0, -1]), output.past_key_values
        if token == request.end_id:
            return tokens, "END_ID"
        tokens.append(token)
        if any(tokens[-len(word) :] == word for word in request.stop_words or ()):
            return tokens, "STOP_WORDS"
        embeds = embed(model, [token], None)
    return tokens, "LENGTH"


def chooser(config: Any) -> Callable[[Tensor], int]:
    """What picks a token of logits [V]: greedy where nothing is set or top_k is 1 (sampling_params.py), else drawn."""
    generator = torch.Generator().manual_seed(config.seed or 0)
    is_greedy = config.top_k == 1 or config.top_k is config.top_p is config.temperature is None

    def choose(logits: Tensor) -> int:
        if is_greedy:
            return int(logits.argmax())
        probabilities = torch.softmax(logits.float() / (config.temperature or 1.0), -1)
        values, order = probabilities.sort(descending=True)
        kept = values.cumsum(-1) - values < (1.0 if config.top_p is None else config.top_p)
        kept[config.top_k or len(kept) :] = False
        return int(order[torch.multinomial(values * kept, 1, generator=generator)])

    return choose
