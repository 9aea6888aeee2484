"""`engine.json`: all that is known of an engine directory besides its weights and its tokenizer.

`build-engine` writes it, `run` reads it. It names the shapes of the model, the preprocessing, the prompt, the stop ids,
the limits and where everything came from. The decoders get their part of it, the run's fingerprint another.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from recap_fast.errors import ConfigError
from recap_fast.generate.fields import Count, Range, Source, read_table, read_value, shown
from recap_fast.generate.json_file import read_json
from recap_fast.generate.model_spec import (
    Ratio,
    TextSpec,
    TokenId,
    VisionSpec,
    text_contradictions,
    vision_contradictions,
)
from recap_fast.generate.replacement import restore
from recap_fast.records import Preprocess

FORMAT = 1
SPEC_FILE, WEIGHTS_FILE = "engine.json", "weights.safetensors"
BACKEND_KEY = "tensorrt_llm"
ComputePrecision = Literal["float32", "bfloat16", "float16"]
Precision = Literal[ComputePrecision, "fp8", "int8"]
"""In fp8 and int8 the language model's linear layers have 8 bits a weight, all else is bfloat16."""
Backend = Literal["torch", "tensorrt-llm"]
KVPrecision = Literal["auto", "fp8"]
"""Precision of keys and values: 'auto' is that of activations, 'fp8' float8_e4m3fn without scales, of half the size."""
NumSlots = Annotated[int, Range(1, 1 << 16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """The conversation template around the image and the questions that may be asked of it."""

    template: str
    """A name in generate/templates.py."""
    text: str
    """The question; may hold fields such as {org_caption}. Of several prompts, that of the first one."""
    default: str | None = None
    """The prompt or the set that is asked where a run says nothing; None: `text`."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Questions by name."""
    sets: dict[str, tuple[str, ...] | dict[str, Ratio]] = field(default_factory=dict)
    """Names of prompts: a list of those that are all asked, or the weights by which one is drawn for each image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSpec:
    """How tokens are chosen where a run says nothing; greedy by default."""

    temperature: Annotated[float, Range(0.0, 10.0)] = 0.0
    top_k: Annotated[int, Range(0)] = 0
    top_p: Annotated[float, Range(0.0, 1.0, above=True)] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes fixed when the engine is built."""

    max_new_tokens: Count
    max_text_tokens: Count
    """Longest text after the image, in tokens, fields included."""
    num_slots: NumSlots
    """Captions being generated at once."""
    prefill_images: NumSlots
    """New images that join in one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What an engine's speed and memory depend on and its captions do not."""

    num_slots: NumSlots
    prefill_images: NumSlots

    def most_branches(self, captions_per_image: int) -> int:
        """The most requests that share the images of one prefill without being the first of theirs."""
        return min(self.prefill_images * (captions_per_image - 1), self.num_slots - 1)


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
        """Positions of all four parts."""
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
    sampling: SamplingSpec = SamplingSpec()
    stop_ids: tuple[TokenId, ...]
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
    checksums: dict[str, str] = field(default_factory=dict)
    """Checksums of the tensors in weights.safetensors, by name: see layout.checksum. Without any, none is verified."""

    @property
    def compute_precision(self) -> ComputePrecision:
        """Precision of activations, and of all weights that are not in 8 bits."""
        return "bfloat16" if self.precision == "fp8" or self.precision == "int8" else self.precision

    def slot_shape(
        self, num_prefix: int, *, max_text_tokens: int | None = None, max_new_tokens: int | None = None
    ) -> SlotShape:
        """The shape of slots that begin with `num_prefix` tokens; None is the engine's own limit."""
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
        restore(folder, SPEC_FILE)
        if not path.is_file():
            raise ConfigError(
                f"{folder} is not an engine directory: it has no {SPEC_FILE}. "
                "Make one with `recap-fast build-engine RECIPE --checkpoint DIR --output DIR`."
            )
        content = read_json(path)
        version = content.pop("format", None)
        if type(version) is not int or version != FORMAT:
            raise ConfigError(
                f"{path} has format {shown(version)}, this version reads {FORMAT}: build the engine again."
            )
        source = Source(path, "Build the engine again.")
        data = read_value(source, dict[str, Any] | None, BACKEND_KEY, content.pop(BACKEND_KEY, None))
        spec = read_table(source, cls, {**content, "backend_data": data})
        for key, wanted in _contradictions(spec):
            value: Any = spec
            for name in key.split("."):
                value = getattr(value, name)
            raise source.refuse_value(key, wanted, value)
        return spec


def _contradictions(spec: EngineSpec) -> Iterator[tuple[str, str]]:
    """The fields that do not fit others, each with what it must be."""
    vision, text, preprocess = spec.vision, spec.text, spec.preprocess
    yield from vision_contradictions(vision)
    yield from text_contradictions(text)
    if (default := spec.prompt.default) is not None and default not in (*spec.prompt.prompts, *spec.prompt.sets):
        yield "prompt.default", "the name of one of prompt.prompts or prompt.sets"
    if preprocess.image_size != vision.image_size:
        yield "preprocess.image_size", f"vision.image_size, {vision.image_size}"
    if not all(0.0 <= number <= 1.0 for number in preprocess.mean):
        yield "preprocess.mean", "three numbers from 0 to 1"
    if not all(1e-6 <= number <= 1e6 for number in preprocess.std):
        yield "preprocess.std", "three numbers above 0"
    if any(number >= text.vocab_size for number in spec.stop_ids):
        yield "stop_ids", f"ids of the vocabulary, below text.vocab_size, {text.vocab_size}"
    taken = vision.num_image_tokens + spec.limits.max_text_tokens + spec.limits.max_new_tokens
    if taken > text.max_positions:
        yield (
            "text.max_positions",
            f"at least {taken}, those of an image ({vision.num_image_tokens}), limits.max_text_tokens and "
            "limits.max_new_tokens",
        )
