"""What a step of the torch engine should take on a card: operations and bytes over rates. Needs no GPU, and no torch.

Matrix products and attention take their operations over a rate that is usual for their kind; everything else takes the
bytes that it reads and writes once over a share of the card's copy rate. Look first at a
kernel whose measured time is far from this. A caption holds its slot for one step more than it has tokens: its end is
known one step late.
"""

from dataclasses import dataclass

from recap_fast.generate.model_spec import TextSpec, VisionSpec
from recap_fast.generate.spec import EngineSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Rates that are usual for the engine's kernels, in operations and bytes a second."""

    name: str
    """A part of the device's name."""
    products: dict[str, float]
    """Of the decoder's matrix products, by the precision of the linear layers."""
    few_rows: float = 0.7
    """Share of that rate that products reach in a step without a prefill."""
    vision_products: float = 520e12
    prompts: float = 350e12
    """Of attention of prompts."""
    images: float = 315e12
    """Of attention of images."""
    copy: float
    streaming: float = 0.85
    """Share of the copy rate that kernels reach that only move data."""
    launch_s: float = 1.2e-6
    """Between two kernels of a graph."""


HOPPER = {"bfloat16": 740e12, "fp8": 1180e12}
CARDS = (Card(name="H200", products=HOPPER, copy=4.3e12), Card(name="H100", products=HOPPER, copy=3.0e12))
"""Products and copies as others have measured them."""
DECODE_LAUNCHES, IMAGE_LAUNCHES, LAYER_LAUNCHES = 300, 60, 10
"""Kernels of a step, as `python benchmarks/launches` counts them: of one without images; how many more with images, and
how many more for each layer of their tower."""


def find_card(name: str) -> Card | None:
    """The card with this device name; None for one that is not known."""
    return next((card for card in CARDS if card.name in name), None)


@dataclass(frozen=True, slots=True)
class Expected:
    """What an engine should do on a card."""

    mixed_ms: dict[str, float]
    """Milliseconds of a step with a prefill, by the kind of kernel (kernels.py)."""
    decode_ms: dict[str, float]
    images_per_s: float

    def mean_ms(self, mixed_steps: int, decode_steps: int) -> dict[str, float]:
        """Milliseconds a step by kind, over so many of both."""
        steps = max(1, mixed_steps + decode_steps)
        return {
            kind: (mixed_steps * ms + decode_steps * self.decode_ms.get(kind, 0.0)) / steps
            for kind, ms in self.mixed_ms.items()
        }


def expect(spec: EngineSpec, card: Card, prefix: int, tokens: float, captions: int = 1) -> Expected:
    """For the spec's sizes, full of captions of so many tokens on average, behind `prefix` positions of text.

    An image gets so many `captions`. The texts of all but the first are a step of their own, the one after the image's.
    """
    most = spec.limits.prefill_images
    mixed, decode = (step_ms(spec, card, prefix, tokens, images) for images in (most, 0))
    steps = [mixed, *([step_ms(spec, card, prefix, tokens, 0, most * (captions - 1))] if captions > 1 else [])]
    joining = min(most / len(steps), spec.limits.num_slots / (captions * (tokens + 1)))
    share = joining / most
    busy = share * sum(sum(step.values()) for step in steps)
    seconds = (busy + (1 - share * len(steps)) * sum(decode.values())) / 1e3
    return Expected(mixed, decode, joining / seconds)


def step_ms(spec: EngineSpec, card: Card, prefix: int, tokens: float, images: int, texts: int = 0) -> dict[str, float]:
    """Milliseconds of a step with so many new images, or `texts` of images that other captions have begun, by kind."""
    text, vision, slots = spec.text, spec.vision, spec.limits.num_slots
    width = spec.limits.max_text_tokens
    new = vision.num_image_tokens + width
    rows, read = images * new + texts * width + slots, images + texts + slots
    patches = images * vision.num_positions
    position = prefix + new + tokens / 2
    share = 1.0 if images else card.few_rows
    products, other = (share * card.products[precision] for precision in (spec.precision, "bfloat16"))
    seen = prefix + vision.num_image_tokens
    pairs = images * (prefix * new + new * (new + 1) / 2) + texts * (seen * width + width * (width + 1) / 2)
    pairs *= text.num_layers - 1
    kinds = {
        "matrix products": _decoder_operations(text, rows, read) / products
        + 2 * read * text.hidden_size * text.vocab_size / other
        + _tower_operations(vision, text, images) / card.vision_products,
        "attention of prompts and images": 4 * pairs * text.num_heads * text.head_dim / card.prompts
        + 4 * patches * (patches / max(1, images)) * vision.hidden_size * vision.num_layers / card.images,
    }
    moved = {
        "decode attention": slots * position * _cache_bytes(spec),
        **_decoder_bytes(spec, rows, read),
        **(_tower_bytes(vision, text, patches) if images else {}),
    }
    moved["SwiGLU and GELU"] += 4 * patches * vision.intermediate_size * vision.num_layers
    kinds |= {kind: num_bytes / (card.streaming * card.copy) for kind, num_bytes in moved.items()}
    if texts:  # keys and values of their images
        kinds["copies"] = 2 * texts * vision.num_image_tokens * _cache_bytes(spec) / (card.streaming * card.copy)
    kinds["between kernels"] = num_launches(vision, has_images=images > 0) * card.launch_s
    return {kind: 1e3 * seconds for kind, seconds in kinds.items()}


def num_launches(vision: VisionSpec, *, has_images: bool) -> int:
    """Kernels of a step."""
    return DECODE_LAUNCHES + has_images * (IMAGE_LAUNCHES + LAYER_LAUNCHES * vision.num_layers)


def _decoder_operations(text: TextSpec, rows: int, read: int) -> float:
    """Of all layers. The last one computes only keys and values for rows that are not read."""
    heads, kv_heads = text.num_heads * text.head_dim, 2 * text.num_kv_heads * text.head_dim
    layer = text.hidden_size * (2 * heads + kv_heads + 3 * text.intermediate_size)
    return 2.0 * (rows * layer * (text.num_layers - 1) + rows * text.hidden_size * kv_heads + read * layer)


def _tower_operations(vision: VisionSpec, text: TextSpec, images: int) -> float:
    """With the projector."""
    layer = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    projector = (vision.hidden_size + text.hidden_size) * text.hidden_size
    tokens = vision.num_image_tokens
    return 2.0 * images * (vision.num_positions * layer * vision.num_layers + tokens * projector)


def _cache_bytes(spec: EngineSpec) -> int:
    """Keys and values of a position in all layers."""
    item = 1 if spec.kv_precision == "fp8" else 2
    return 2 * spec.text.num_layers * spec.text.num_kv_heads * spec.text.head_dim * item


def _decoder_bytes(spec: EngineSpec, rows: int, read: int) -> dict[str, float]:
    """By kind. All is bfloat16 but what is quantized for the next product."""
    text, quantized = spec.text, 2 if spec.precision == spec.compute_precision else 1
    heads, kv_heads = text.num_heads * text.head_dim, 2 * text.num_kv_heads * text.head_dim
    norms = (2 * text.num_layers - 1) * rows + 2 * read
    swiglu = (text.num_layers - 1) * rows + read
    return {
        "norms and what they quantize": norms * text.hidden_size * (6 + quantized),
        "SwiGLU and GELU": swiglu * text.intermediate_size * (4 + quantized),
        "RoPE and keys and values": rows * text.num_layers * (4 * heads + 2 * kv_heads) + rows * _cache_bytes(spec),
        "choice of tokens": read * text.vocab_size * 2,
    }


def _tower_bytes(vision: VisionSpec, text: TextSpec, patches: int) -> dict[str, float]:
    """By kind."""
    values = patches * vision.hidden_size * vision.num_layers
    return {
        "LayerNorm": 2 * 4 * values,
        "element-wise": 2 * 6 * values + 4 * patches * text.hidden_size,
        "copies": 8 * patches * text.hidden_size + 30 * patches * vision.patch_size**2,
    }
