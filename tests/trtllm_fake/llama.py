"""The arithmetic behind the fake: a plain Llama of transformers on the CPU, from ids and an embedding table.

Ids of vocab_size and above take the rows of the table: id vocab_size + r is row r (promptTuningBuffers.cpp, with each
request its own task, so that its ids begin at vocab_size again).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
E4M3_MAX = 448.0


class TrapError(Exception):
    """The real library would not say so clearly, or not at all: a trap that its users know."""


@dataclass(frozen=True)
class Checkpoint:
    """A Llama as files have it: transformers' config and tensors."""

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
        tensors: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors |= safetensors.torch.load_file(file)
        return cls(config, tensors)

    def dtype(self, asked: str) -> str:
        """'auto' is what the config says."""
        name = self.config.get("torch_dtype") or self.config.get("dtype") if asked == "auto" else asked
        if name not in DTYPES:
            raise ValueError(f"dtype {asked!r}: the config has {name!r}, known are {', '.join(DTYPES)}")
        return str(name)

    def model(self, dtype: str) -> Any:
        """transformers' LlamaForCausalLM, rotary positions in float32. Raises RuntimeError for tensors that differ."""
        from transformers import LlamaConfig, LlamaForCausalLM

        model = LlamaForCausalLM(LlamaConfig(**self.config)).eval()
        load_strictly(model, self.tensors)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(DTYPES[dtype])
        return model

    def in_fp8(self) -> "Checkpoint":
        """Linear layers of the decoder rounded to float8_e4m3fn, one scale a tensor, as ModelOpt's FP8 has them."""
        rounded = dict(self.tensors)
        for name, tensor in self.tensors.items():
            if "_proj." in name:
                scale = tensor.float().abs().amax() / E4M3_MAX
                rounded[name] = ((tensor.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(tensor.dtype)
        return Checkpoint(self.config, rounded)

    def save(self, path: Path) -> None:
        """Writes tensors and config into one file."""
        contiguous = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        safetensors.torch.save_file(contiguous, path, metadata={"config": json.dumps(self.config)})

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Reads what `save` wrote."""
        with safetensors.safe_open(path, "pt") as file:
            return cls(json.loads(file.metadata()["config"]), {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def load_strictly(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Every tensor must be there and no other; a tied head may be missing."""
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if model.config.tie_word_embeddings:
        missing = [name for name in missing if name != "lm_head.weight"]
        model.tie_weights()
    if missing or unexpected:
        raise RuntimeError(f"tensors missing: {missing}, not known: {unexpected}")


def embed(model: Any, ids: Sequence[int], table: Tensor | None) -> Tensor:
    """[1, n, D] of ids [n], those above the vocabulary from the table [rows, D]."""
    words = model.model.embed_tokens
    given = torch.tensor(ids)
    x = words(given.clamp(max=words.num_embeddings - 1))
    is_image = given >= words.num_embeddings
    if table is not None and is_image.any():
        x[is_image] = table[given[is_image] - words.num_embeddings].to(x)
    return x[None]


@dataclass
class Sampler:
    """How the next token is chosen; greedy unless told otherwise."""

    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed or 0)

    @property
    def is_greedy(self) -> bool:
        """As the library defines it (sampling_params.py, params_imply_greedy_decoding)."""
        nothing = self.top_k is None and self.top_p is None and self.temperature is None
        return nothing or self.top_k == 1 or self.top_p == 0.0 or self.temperature == 0.0

    def choose(self, logits: Tensor) -> int:
        """A token of logits [V]."""
        if self.is_greedy:
            return int(logits.argmax())
        probabilities = torch.softmax(logits.float() / (self.temperature or 1.0), -1)
        values, order = probabilities.sort(descending=True)
        kept = values.cumsum(-1) - values < (1.0 if self.top_p is None else self.top_p)
        kept[self.top_k or len(kept) :] = False
        return int(order[torch.multinomial(values * kept, 1, generator=self._generator)])


class Running:
    """One request on its way: its keys and values, its tokens so far, and why it ended."""

    def __init__(self, *, max_tokens: int, end_id: int | None, stop_words: Sequence[Sequence[int]], sampler: Sampler):
        self._max_tokens, self._end_id, self._sampler = max_tokens, end_id, sampler
        self._stop_words = [list(word) for word in stop_words]
        self.cache: Any = None
        self.tokens: list[int] = []
        self.finish: str | None = None

    def take(self, logits: Tensor, *, keep_end_id: bool) -> None:
        """The next token of logits [V]. END_ID, STOP_WORDS or LENGTH end it; a stop word stays among the tokens."""
        token = self._sampler.choose(logits)
        if token == self._end_id and not keep_end_id:
            self.finish = "END_ID"
            return
        self.tokens.append(token)
        if token == self._end_id:
            self.finish = "END_ID"
        elif any(self.tokens[-len(word) :] == word for word in self._stop_words):
            self.finish = "STOP_WORDS"
        elif len(self.tokens) >= self._max_tokens:
            self.finish = "LENGTH"


@torch.inference_mode()
def forward(model: Any, sequence: Running, embeds: Tensor) -> Tensor:
    """Logits [V] of the last of embeddings [1, n, D], which come after those that the sequence has seen."""
    output = model(inputs_embeds=embeds, past_key_values=sequence.cache, use_cache=True)
    sequence.cache = output.past_key_values
    last: Tensor = output.logits[0, -1]
    return last
