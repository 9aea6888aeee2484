"""The shapes of a model: its vision tower, its decoder, and the numbers that a config may have for them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from recap_fast.generate.fields import Range

Width = Annotated[int, Range(1, 1 << 20)]
"""Width of a layer. Numbers outside of this range, and of those below, are mistakes: they would take endless memory."""
Number = Annotated[int, Range(1, 1024)]
"""Number of layers or heads."""
Side = Annotated[int, Range(1, 1 << 14)]
"""In pixels."""
Positions = Annotated[int, Range(1, 1 << 30)]
Epsilon = Annotated[float, Range(0.0, 1.0)]
Ratio = Annotated[float, Range(0.0, 1e12, above=True)]
MAX_TOKENS = 1 << 22
"""More than any vocabulary has."""
VocabularySize = Annotated[int, Range(1, MAX_TOKENS)]
TokenId = Annotated[int, Range(0, MAX_TOKENS - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSpec:
    """CLIP's vision transformer or SigLIP's, as far as LLaVA reads it: `num_layers` layers run, no norm after them.

    The defaults of what they differ in are CLIP's.
    """

    hidden_size: Width
    intermediate_size: Width
    num_layers: Number
    num_heads: Number
    image_size: Side
    patch_size: Side
    activation: Literal["quick_gelu", "gelu", "gelu_tanh"]
    norm_eps: Epsilon
    has_class_token: bool = True
    """A learned position before the patches."""
    has_pre_norm: bool = True
    """A norm before the layers."""
    has_patch_bias: bool = False
    select: Literal["default", "full"] = "default"
    """What goes to the decoder: all positions, or by 'default' all but the first, be it class token or patch."""

    @property
    def num_patches(self) -> int:
        """Whole patches of an image: pixels to the right of them and below are not read."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_positions(self) -> int:
        """Positions of an image in the tower."""
        return self.num_patches + self.has_class_token

    @property
    def num_dropped(self) -> int:
        """Positions, the first ones, that do not go to the decoder."""
        return int(self.select == "default")

    @property
    def num_image_tokens(self) -> int:
        """Positions of an image that go to the decoder."""
        return self.num_positions - self.num_dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary positions; all but `theta` is only read where they are scaled."""

    theta: Ratio
    kind: Literal["llama3", "linear", "yarn"] = "llama3"
    """How positions are scaled, by transformers' names, where there is a `factor`."""
    factor: Ratio | None = None
    low_freq_factor: Ratio = 1.0
    high_freq_factor: Ratio = 4.0
    original_max_positions: Positions = 8192
    beta_fast: Ratio = 32.0
    beta_slow: Ratio = 1.0
    truncate: bool = True
    """Whether the range between the two betas is widened to whole pairs of channels."""
    attention_factor: Ratio = 1.0
    """Of YaRN: multiplies queries and keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """The decoder: Llama's, or one that differs as is said here. `vocab_size` is the embedding's number of rows."""

    hidden_size: Width
    intermediate_size: Width
    num_layers: Number
    num_heads: Number
    num_kv_heads: Number
    head_dim: Number
    vocab_size: VocabularySize
    max_positions: Positions
    norm_eps: Epsilon
    tied_head: bool
    rope: RopeSpec
    qkv_bias: bool = False
    """Queries, keys and values have biases, as in Qwen2."""
    qk_norm: bool = False
    """Each head of queries and keys has an RMS norm before it is turned, as in Qwen3."""


def vision_contradictions(vision: VisionSpec) -> Iterator[tuple[str, str]]:
    if vision.hidden_size % vision.num_heads:
        yield "vision.num_heads", f"a divisor of vision.hidden_size, {vision.hidden_size}"
    if vision.patch_size > vision.image_size:
        yield "vision.patch_size", f"at most vision.image_size, {vision.image_size}"
    elif vision.num_image_tokens < 1:
        yield "vision.select", "'full' where there is one position"


def text_contradictions(text: TextSpec) -> Iterator[tuple[str, str]]:
    rope = text.rope
    if text.num_heads % text.num_kv_heads:
        yield "text.num_kv_heads", f"a divisor of text.num_heads, {text.num_heads}"
    if text.head_dim % 2:
        yield "text.head_dim", "even"
    if rope.factor is not None and rope.high_freq_factor <= rope.low_freq_factor:
        yield "text.rope.high_freq_factor", f"above text.rope.low_freq_factor, {rope.low_freq_factor}"
    if rope.kind == "yarn" and rope.theta <= 1.0:
        yield "text.rope.theta", "above 1"
