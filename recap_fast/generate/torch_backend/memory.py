"""How much of a device's memory an engine takes, and how many slots fit. Arithmetic on shapes: needs no device.

Weights, keys and values, and pixels are exact. Activations are those of the largest moment of a step, by the formulas
below, and what the graphs, the libraries' workspaces and the allocator's gaps add is one constant: both are estimates.
"""

from bisect import bisect_right
from dataclasses import asdict, dataclass

from recap_fast.errors import ConfigError
from recap_fast.generate.layout import weight_bytes
from recap_fast.generate.spec import EngineSpec, Sizes, SlotShape

GIB = 1 << 30
OVERHEAD_BYTES = 2 * GIB
"""CUDA graphs, cuBLAS's workspaces, gaps between the allocator's blocks, and DALI with the pixels that it has decoded
ahead, about a half of it. Estimated, not measured."""
SLOTS_MULTIPLE = 16
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1}

# Letters: n images of a prefill, M texts of a step that branches, N image tokens, S width of the text after them, B
# decode rows, one a slot, R = max(n * (N + S), M * S) + B rows of a step, D and F width and inner width of the decoder,
# K key/value heads, E head width, V vocabulary.


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes by purpose."""

    weights: int
    cache: int
    """Keys and values of all slots."""
    activations: int
    pixels: int
    overhead: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def plan_memory(spec: EngineSpec, shape: SlotShape, sizes: Sizes, captions_per_image: int = 1) -> MemoryPlan:
    """The memory of an engine with slots of this shape.

    An idle position is added to each slot and an idle slot to all of them, and pixels are held twice: while a step
    reads the one buffer the next images are copied into the other.
    """
    text, images = spec.text, sizes.prefill_images
    kv_precision = spec.compute_precision if spec.kv_precision == "auto" else spec.kv_precision
    per_position = text.num_kv_heads * text.head_dim * ITEM_BYTES[kv_precision]
    branches = sizes.most_branches(captions_per_image)
    rows = max(images * (shape.num_image_tokens + shape.max_text_tokens), branches * shape.max_text_tokens)
    activations = _activation_bytes(spec, rows + sizes.num_slots, images, max(images, branches) + sizes.num_slots)
    return MemoryPlan(
        weights=weight_bytes(spec),
        cache=(sizes.num_slots + 1) * (shape.num_positions + 1) * 2 * text.num_layers * per_position,
        activations=max(activations, branches * shape.num_image_tokens * per_position),
        pixels=2 * images * 3 * spec.vision.image_size**2,
        overhead=OVERHEAD_BYTES,
    )


def _activation_bytes(spec: EngineSpec, rows: int, images: int, logits: int) -> int:
    """The largest of three moments, with b bytes a number; the residual stream R * D * b lives through all of them.
    Before it there is a fourth, the copy of one layer's keys or values of images: M * N * K * E bytes or more.

    vision   after the first half of the feed-forward part: n * positions * (2 width + 3 inner width) * b
    decoder  after SwiGLU: R * (2 D + 3 F) * b; with int8 weights R * (2 D * b + 2 F * 4 + F), since its products come
             as int32
    head     (n + B) * V * (b + 4): logits, and a float32 copy of them; sampling with a top-p takes some 12 bytes a
             logit instead, and 28 without top-k and top-p, which is not counted
    """
    text, vision, item = spec.text, spec.vision, ITEM_BYTES[spec.compute_precision]
    width, inner = text.hidden_size, text.intermediate_size
    positions = images * vision.num_positions
    products = 9 * inner if spec.precision == "int8" else 3 * inner * item
    return rows * width * item + max(
        positions * (2 * vision.hidden_size + 3 * vision.intermediate_size) * item,
        rows * (2 * width * item + products),
        logits * text.vocab_size * (item + 4),
    )


def fit_slots(
    spec: EngineSpec,
    shape: SlotShape,
    wanted: Sizes,
    free_bytes: int,
    device: str = "the device",
    captions_per_image: int = 1,
) -> int:
    """The largest number of slots that fits, up to those that are wanted; below them a multiple of 16.

    `device` is its name, for people. Raises ConfigError where not even one slot fits, as `check_fit` does.
    """

    def with_slots(num_slots: int) -> Sizes:
        return Sizes(num_slots=num_slots, prefill_images=min(wanted.prefill_images, num_slots))

    most = wanted.num_slots
    fits = bisect_right(
        range(1, most + 1),
        free_bytes,
        key=lambda slots: plan_memory(spec, shape, with_slots(slots), captions_per_image).total,
    )
    if fits == 0:
        check_fit(spec, shape, with_slots(1), free_bytes, device, captions_per_image)
    return fits if fits == most else _round_slots(fits)


def fit_cpu_slots(spec: EngineSpec, shape: SlotShape, wanted: Sizes, memory_bytes: int) -> int:
    """The same on a CPU, for a process that may use `memory_bytes`, an eighth of which is left for all but the engine.

    At least one slot: weights that do not fit are read from the disk again and again, which is slow and works.
    """
    plan = plan_memory(spec, shape, wanted)
    fits = max(1, (memory_bytes * 7 // 8 - plan.weights) * wanted.num_slots // plan.cache)
    return wanted.num_slots if fits >= wanted.num_slots else _round_slots(fits)


def _round_slots(num_slots: int) -> int:
    return num_slots - num_slots % SLOTS_MULTIPLE if num_slots > SLOTS_MULTIPLE else num_slots


def check_fit(
    spec: EngineSpec,
    shape: SlotShape,
    sizes: Sizes,
    free_bytes: int,
    device: str = "the device",
    captions_per_image: int = 1,
) -> None:
    """Raises ConfigError where these sizes take more than `free_bytes`.

    It says what each part takes, by how much it is too much, and what to lower.
    """
    plan = plan_memory(spec, shape, sizes, captions_per_image)
    if plan.total <= free_bytes:
        return
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in asdict(plan).items())
    lower = [f"--{name.replace('_', '-')}" for name, size in asdict(sizes).items() if size > 1]
    build = []
    if spec.precision == spec.compute_precision:
        build.append("--precision fp8 or int8")
    if spec.kv_precision == "auto":
        build.append('kv_precision = "fp8" in its recipe')
    ways = (("lower", lower), ("build the engine with", build))
    advice = ", or ".join(f"{verb} {' or '.join(found)}" for verb, found in ways if found) or "use a larger device"
    raise ConfigError(
        f"The engine does not fit {device}: with num_slots {sizes.num_slots} and prefill_images "
        f"{sizes.prefill_images} it takes {plan.total / GIB:.1f} GiB ({parts}), {free_bytes / GIB:.1f} GiB are free, "
        f"{(plan.total - free_bytes) / GIB:.1f} GiB too few. {advice[0].upper()}{advice[1:]}."
    )
