"""`engine.json`: all that is known of an engine directory besides its weights and its tokenizer.

`build-engine` writes it, `run` reads it. It names the shapes of the model, the preprocessing, the prompt, the stop ids,
the limits and where everything came from. The decoders get their part of it, the run's fingerprint another.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recap_fast.errors import ConfigError
from recap_fast.records import Preprocess

FORMAT = 1
SPEC_FILE, WEIGHTS_FILE = "engine.json", "weights.safetensors"
BACKEND_KEY = "tensorrt_llm"
ComputePrecision = Literal["float32", "bfloat16", "float16"]
Precision = Literal[ComputePrecision, "fp8", "int8"]
"""In fp8 and int8 the language model's linear layers have 8 bits a weight, all else is bfloat16."""
Backend = Literal["torch", "tensorrt-llm"]
KVPrecision = Literal["auto", "fp8"]
"""Of keys and values: 'auto' is that of activations; 'fp8' is float8_e4m3fn without scales, half as much memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSpec:
    """CLIP's vision transformer, as far as LLaVA reads it: `num_layers` layers run, no norm after them."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    activation: Literal["quick_gelu", "gelu"]
    norm_eps: float

    @property
    def num_image_tokens(self) -> int:
        """Patches of an image: the class token is dropped."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary positions of Llama 3; `factor` and the rest only where Llama 3.1's scaling is used."""

    theta: float
    factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """The Llama decoder. `vocab_size` is the number of rows of the embedding."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    tied_head: bool
    rope: RopeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """The conversation template around the image and the question that is asked of it."""

    template: str
    """A name in generate/prompt.py."""
    text: str
    """The question; may hold fields such as {org_caption}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes fixed when the engine is built."""

    max_new_tokens: int
    max_text_tokens: int
    """Longest text after the image, in tokens, fields included."""
    num_slots: int
    """Captions being generated at once."""
    prefill_images: int
    """New images that join in one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What an engine's speed and memory depend on and its captions do not."""

    num_slots: int
    prefill_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotShape:
    """The positions of each slot of an open engine: prefix, image, text and caption, in this order."""

    num_prefix: int
    num_image_tokens: int
    max_text_tokens: int
    max_new_tokens: int

    @property
    def text_start(self) -> int:
        """The first position after prefix and image."""
        return self.num_prefix + self.num_image_tokens

    @property
    def num_positions(self) -> int:
        """Of all four."""
        return self.text_start + self.max_text_tokens + self.max_new_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """The content of engine.json."""

    name: str
    backend: Backend
    precision: Precision
    kv_precision: KVPrecision = "auto"
    vision: VisionSpec
    text: TextSpec
    preprocess: Preprocess
    prompt: PromptSpec
    stop_ids: tuple[int, ...]
    limits: Limits
    cards: dict[str, Sizes] = field(default_factory=dict)
    """Sizes to use instead of those of `limits` on a card of this name, such as 'H200' or 'A100 80GB'."""
    backend_data: dict[str, Any] | None = None
    """What only the backend reads; in the file it is called `tensorrt_llm`, after the one backend that has any."""
    notice: str | None = None
    """A sentence that `run` shows at the start: what this model is not good for."""
    sources: dict[str, Any] = field(default_factory=dict)
    """Where it came from: recipe and checkpoint, SHA-256 of each file, versions of the libraries that built it."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the directory's other files, by name."""

    @property
    def compute_precision(self) -> ComputePrecision:
        """Of activations, and of all weights that are not in 8 bits."""
        return "bfloat16" if self.precision == "fp8" or self.precision == "int8" else self.precision

    def slot_shape(
        self, num_prefix: int, *, max_text_tokens: int | None = None, max_new_tokens: int | None = None
    ) -> SlotShape:
        """Of slots that begin with `num_prefix` tokens; None is the engine's own limit."""
        return SlotShape(
            num_prefix=num_prefix,
            num_image_tokens=self.vision.num_image_tokens,
            max_text_tokens=max_text_tokens or self.limits.max_text_tokens,
            max_new_tokens=max_new_tokens or self.limits.max_new_tokens,
        )

    def save(self, folder: Path) -> None:
        """Writes `engine.json` into the folder."""
        values = dataclasses.asdict(self).items()
        content = {"format": FORMAT, **{BACKEND_KEY if key == "backend_data" else key: value for key, value in values}}
        (folder / SPEC_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "EngineSpec":
        """Reads `engine.json`. Raises ConfigError where the folder is no engine directory of this version."""
        path = folder / SPEC_FILE
        if not path.is_file():
            raise ConfigError(
                f"{folder} is not an engine directory: it has no {SPEC_FILE}. "
                "Make one with `recap-fast build-engine RECIPE --checkpoint DIR --output DIR`."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content.pop("format")
            if version != FORMAT:
                raise ConfigError(f"{path} has format {version}, this version reads {FORMAT}: build the engine again.")
            text, preprocess = content["text"], content["preprocess"]
            mean, std = tuple(preprocess["mean"]), tuple(preprocess["std"])
            return cls(
                **{
                    "backend_data": content.pop(BACKEND_KEY, None),
                    **content,
                    "vision": VisionSpec(**content["vision"]),
                    "text": TextSpec(**{**text, "rope": RopeSpec(**text["rope"])}),
                    "preprocess": Preprocess(**{**preprocess, "mean": mean, "std": std}),
                    "prompt": PromptSpec(**content["prompt"]),
                    "stop_ids": tuple(content["stop_ids"]),
                    "limits": Limits(**content["limits"]),
                    "cards": {name: Sizes(**sizes) for name, sizes in content.get("cards", {}).items()},
                }
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): build the engine again.") from error
