"""Decoder and vision tower in one call of C++ beside the same layers in float64."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import exact_model, tolerance
from support.tolerance import assert_within, exact
from torch import Tensor

from inputs import shapes
from recap_fast.generate.ops import Rows, cpp, plain
from recap_fast.generate.spec import RopeSpec, TextSpec, VisionSpec
from recap_fast.generate.torch_backend import step
from recap_fast.generate.torch_backend.cpp_model import CppLlama, CppTower, normalized_levels
from recap_fast.generate.torch_backend.llama import KVCache, Llama, Prefill
from recap_fast.generate.vision.tower import VisionTower
from recap_fast.records import Preprocess

pytestmark = pytest.mark.usefixtures("kernel_level")

NUM_SLOTS, NUM_POSITIONS = 7, 60
CPU = torch.device("cpu")
PREPROCESS = Preprocess(24, "pad", (0.481, 0.458, 0.408), (0.269, 0.261, 0.276))


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """As many threads as before for the tests after it."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def text_spec(**changed: Any) -> TextSpec:
    fields = {
        "hidden_size": 40,
        "intermediate_size": 56,
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "vocab_size": 75,
        "max_positions": 128,
        "norm_eps": 1e-5,
        "tied_head": False,
        "rope": RopeSpec(theta=10000.0),
    }
    return TextSpec(**{**fields, **changed})


def random_matrices(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Matrices that keep the variance of what passes through them; all else near 1."""
    generator = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: x / x.shape[1] ** 0.5 if x.ndim == 2 else 1 + 0.1 * x for name, x in noise.items()}


def text_weights(spec: TextSpec, seed: int) -> dict[str, Tensor]:
    width, queries = spec.hidden_size, spec.num_heads * spec.head_dim
    shapes: dict[str, tuple[int, ...]] = {"embed": (spec.vocab_size, width), "norm": (width,)}
    if not spec.tied_head:
        shapes["head"] = (spec.vocab_size, width)
    for i in range(spec.num_layers):
        shapes |= {
            f"layers.{i}.norm1": (width,),
            f"layers.{i}.qkv": (queries + 2 * spec.num_kv_heads * spec.head_dim, width),
            f"layers.{i}.out": (width, queries),
            f"layers.{i}.norm2": (width,),
            f"layers.{i}.gate_up": (2 * spec.intermediate_size, width),
            f"layers.{i}.down": (width, spec.intermediate_size),
        }
    return random_matrices({f"text.{name}.weight": shape for name, shape in shapes.items()}, seed)


def random_step(prompts: int, length: int, start: int, captions: int) -> tuple[Prefill | None, Rows | None, int]:
    """Prompts in the first slots, their last rows padding or not, captions at many positions in the others."""
    ends = [length - 1 - i % length for i in range(prompts)]
    last_rows = torch.tensor([i * length + end for i, end in enumerate(ends)])
    prefill = Prefill(torch.arange(prompts), start, length, last_rows) if prompts else None
    slots = torch.arange(prompts, prompts + captions)
    decode = Rows(slots, slots * 13 % (NUM_POSITIONS - 1)) if captions else None
    return prefill, decode, prompts * length + captions


def random_cache(cache: KVCache, seed: int) -> Tensor:
    return torch.randn(cache.data.shape, generator=torch.Generator().manual_seed(seed))


def run(llama: Llama | CppLlama, x: Tensor, cache: KVCache, seed: int, *step: Any) -> tuple[Tensor, Tensor]:
    """Logits, and what the cache holds afterwards; the same numbers were there before."""
    cache.data.copy_(random_cache(cache, seed))
    with torch.inference_mode():
        return llama.forward(x.clone(), cache, *step), cache.data.clone()


def assert_exact(spec: TextSpec, seed: int, step: tuple[Prefill | None, Rows | None, int]) -> None:
    """Logits and cache of a step beside those in float64."""
    weights = text_weights(spec, seed)
    *rows, num_rows = step
    x = torch.randn(num_rows, spec.hidden_size, generator=torch.Generator().manual_seed(seed + 1))
    cache = KVCache(spec, NUM_SLOTS, NUM_POSITIONS, torch.float32, CPU)
    got, found = run(CppLlama(spec, weights, NUM_POSITIONS), x, cache, seed + 2, *rows)
    logits, expected_cache = exact_model.decode(spec, weights, exact(x), random_cache(cache, seed + 2), *rows)
    assert_within(found, expected_cache)
    assert_within(got, logits)


@given(
    hidden_size=st.integers(1, 90),
    intermediate_size=st.integers(1, 90),
    num_layers=st.integers(1, 3),
    num_kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 4, 7]),
    half_head_dim=st.sampled_from([1, 4, 8, 12, 16, 20, 32, 40]),
    vocab_size=st.integers(1, 130),
    tied_head=st.booleans(),
    prompts=st.integers(0, 3),
    length=st.integers(1, 40),
    start=st.integers(0, 6),
    captions=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_decoder(
    num_kv_heads: int,
    group: int,
    half_head_dim: int,
    prompts: int,
    length: int,
    start: int,
    captions: int,
    seed: int,
    **shape: Any,
) -> None:
    captions = captions or int(prompts == 0)
    spec = text_spec(num_kv_heads=num_kv_heads, num_heads=num_kv_heads * group, head_dim=2 * half_head_dim, **shape)
    assert_exact(spec, seed, random_step(prompts, length, start, captions))


@pytest.mark.parametrize("rows", [13, 14, 15, 27, 28, 29, 57])
def test_decoder_with_all_kinds_of_blocks(rows: int) -> None:
    """Blocks of products have up to 14 rows and 32 columns."""
    spec = text_spec(hidden_size=96, intermediate_size=160, head_dim=32, vocab_size=64)
    assert_exact(spec, 0, random_step(1, rows, 2, 5))


def test_decoder_gives_the_same_bits_with_any_number_of_threads() -> None:
    spec = text_spec(hidden_size=130, intermediate_size=300, head_dim=24, vocab_size=500)
    llama = CppLlama(spec, text_weights(spec, 0), NUM_POSITIONS)
    cache = KVCache(spec, NUM_SLOTS, NUM_POSITIONS, torch.float32, CPU)
    prefill, decode, num_rows = random_step(3, 30, 5, 4)
    x = torch.randn(num_rows, spec.hidden_size, generator=torch.Generator().manual_seed(1))
    torch.set_num_threads(1)
    expected, expected_cache = run(llama, x, cache, 2, prefill, decode)
    for num_threads in (2, 3, 5):
        torch.set_num_threads(num_threads)
        for _ in range(10):
            got, found = run(llama, x, cache, 2, prefill, decode)
            assert torch.equal(got, expected)
            assert torch.equal(found, expected_cache)


@pytest.mark.parametrize(("slot", "position"), [(-1, 0), (NUM_SLOTS, 0), (0, -1), (0, NUM_POSITIONS + 1)])
def test_places_outside_of_the_cache_are_refused(slot: int, position: int) -> None:
    spec = text_spec()
    llama = CppLlama(spec, text_weights(spec, 0), NUM_POSITIONS)
    cache = KVCache(spec, NUM_SLOTS, NUM_POSITIONS, torch.float32, CPU)
    rows = Rows(torch.tensor([1, slot]), torch.tensor([0, position]))
    with pytest.raises(IndexError, match=rf"row 1 is at slot {slot}, position {position} of a cache of 7 slots of 61"):
        llama.forward(torch.zeros(2, spec.hidden_size), cache, None, rows)
    assert not cache.data.any()


def test_rows_of_another_kind_are_refused() -> None:
    spec = text_spec()
    llama = CppLlama(spec, text_weights(spec, 0), NUM_POSITIONS)
    cache = KVCache(spec, NUM_SLOTS, NUM_POSITIONS, torch.float32, CPU)
    rows = Rows(torch.tensor([1]), torch.tensor([0]))
    with pytest.raises(
        ValueError, match=r"x is torch.bfloat16 \[1, 40\] .* on cpu, expected contiguous float32 \[rows, 40\]"
    ):
        llama.forward(torch.zeros(1, spec.hidden_size).bfloat16(), cache, None, rows)


def vision_spec(**changed: Any) -> VisionSpec:
    fields = {
        "hidden_size": 64,
        "intermediate_size": 100,
        "num_layers": 2,
        "num_heads": 2,
        "image_size": 24,
        "patch_size": 8,
        "activation": "quick_gelu",
        "norm_eps": 1e-5,
    }
    return VisionSpec(**{**fields, **changed})


def vision_weights(spec: VisionSpec, projector_width: int, seed: int) -> dict[str, Tensor]:
    width, inner = spec.hidden_size, spec.intermediate_size
    matrices = {"qkv": (3 * width, width), "out": (width, width), "fc1": (inner, width), "fc2": (width, inner)}
    parts = {"projector.0": (projector_width, width), "projector.1": (projector_width, projector_width)}
    parts |= {"vision.pre_norm": (width,)}
    for i in range(spec.num_layers):
        for name, shape in {"norm1": (width,), "norm2": (width,), **matrices}.items():
            parts[f"vision.layers.{i}.{name}"] = shape
    shapes: dict[str, tuple[int, ...]] = {
        "vision.patch.weight": (width, 3 * spec.patch_size**2),
        "vision.class": (width,),
        "vision.position": (spec.num_image_tokens + 1, width),
    }
    for name, shape in parts.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return random_matrices(shapes, seed)


def random_pixels(spec: VisionSpec, count: int, seed: int) -> Tensor:
    shape = (count, 3, spec.image_size, spec.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@given(
    num_heads=st.integers(1, 3),
    head_width=st.sampled_from([1, 3, 16, 24, 32, 40, 64]),
    intermediate_size=st.integers(1, 130),
    num_layers=st.integers(0, 2),
    patch_size=st.integers(1, 9),
    image_size=st.integers(9, 40),
    activation=st.sampled_from(["quick_gelu", "gelu"]),
    projector_width=st.integers(1, 70),
    has_bias=st.booleans(),
    images=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_tower(
    num_heads: int, head_width: int, projector_width: int, has_bias: bool, images: int, seed: int, **shape: Any
) -> None:
    """Also where patches leave a rest of the image, and of projectors without a bias."""
    shape["patch_size"] = max(shape["patch_size"], shape["image_size"] // 6)  # some hundred patches at most
    spec = vision_spec(num_heads=num_heads, hidden_size=num_heads * head_width, **shape)
    weights = vision_weights(spec, projector_width, seed)
    if not has_bias:
        del weights["projector.0.bias"], weights["projector.1.bias"]
    pixels = random_pixels(spec, images, seed)
    with torch.inference_mode():
        got = CppTower(spec, PREPROCESS, weights).encode(pixels)
    assert_within(got, exact_model.encode(spec, PREPROCESS, weights, pixels))


def test_tower_gives_the_same_bits_with_any_number_of_threads() -> None:
    spec = vision_spec(hidden_size=120, image_size=64)
    tower, pixels = CppTower(spec, PREPROCESS, vision_weights(spec, 75, 0)), random_pixels(spec, 5, 0)
    torch.set_num_threads(1)
    expected = tower.encode(pixels)
    for num_threads in (2, 3, 5):
        torch.set_num_threads(num_threads)
        for _ in range(10):
            assert torch.equal(tower.encode(pixels), expected)


def test_levels_are_normalized_as_pixels_are() -> None:
    spec = vision_spec(image_size=16, patch_size=1)
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    patches = VisionTower(spec, PREPROCESS, vision_weights(spec, 8, 0), plain)._patches(levels)
    assert torch.equal(normalized_levels(PREPROCESS), patches[0].T)


def test_no_pixels_give_no_tokens() -> None:
    spec = vision_spec()
    tower = CppTower(spec, PREPROCESS, vision_weights(spec, 8, 0))
    assert tower.encode(random_pixels(spec, 0, 0)).shape == (0, 9, 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vision.layers.1.norm2.bias", r"vision.layers.1.norm2.bias is .* \[63\] .*, expected .* \[64\]"),
        ("vision.position", r"vision.position is .* \[9, 64\] .*, expected .* \[10, 64\]"),
        ("projector.0.weight", r"projector.0.bias is .* \[8\] .*, expected .* \[7\]"),
    ],
)
def test_a_towers_weights_of_another_shape_are_refused(name: str, message: str) -> None:
    weights = vision_weights(vision_spec(), 8, 0)
    with pytest.raises(ValueError, match=message):
        CppTower(vision_spec(), PREPROCESS, {**weights, name: weights[name][1:]})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layers.0.norm1", r"text.layers.0.norm1.weight is .* \[39\] .*, expected .* \[40\]"),
        ("layers.2.qkv", r"text.layers.2.qkv.weight is .* \[127, 40\] .*, expected .* \[128, 40\]"),
        ("layers.1.down", r"text.layers.1.down.weight is .* \[39, 56\] .*, expected .* \[40, 56\]"),
    ],
)
def test_a_decoders_weights_of_another_shape_are_refused(name: str, message: str) -> None:
    weights, key = text_weights(text_spec(), 0), f"text.{name}.weight"
    with pytest.raises(ValueError, match=message):
        CppLlama(text_spec(), {**weights, key: weights[key][1:]}, NUM_POSITIONS)


def test_shapes_that_no_model_has_are_refused() -> None:
    spec = text_spec(num_heads=3, num_kv_heads=2)
    with pytest.raises(ValueError, match="query heads cannot share the key/value heads evenly"):
        CppLlama(spec, text_weights(spec, 0), NUM_POSITIONS)
    spec = vision_spec(num_heads=3)
    with pytest.raises(ValueError, match="the channels cannot be divided among the heads"):
        CppTower(spec, PREPROCESS, vision_weights(spec, 8, 0))


def test_a_head_of_another_vocabulary_is_refused() -> None:
    spec, weights = text_spec(), text_weights(text_spec(), 0)
    llama = CppLlama(spec, {**weights, "text.head.weight": weights["text.head.weight"][1:]}, NUM_POSITIONS)
    cache = KVCache(spec, NUM_SLOTS, NUM_POSITIONS, torch.float32, CPU)
    with pytest.raises(
        ValueError, match=r"logits is torch.float32 \[1, 75\] .*, expected contiguous float32 \[1, 74\]"
    ):
        llama.forward(torch.zeros(1, 40), cache, None, Rows(torch.tensor([1]), torch.tensor([0])))


def test_models_have_weights_of_their_own_and_keep_their_kernels(kernel_level: str) -> None:
    spec, weights = text_spec(), text_weights(text_spec(), 0)
    llama = CppLlama(spec, weights, NUM_POSITIONS)
    cache = KVCache(spec, NUM_SLOTS, NUM_POSITIONS, torch.float32, CPU)
    prefill, decode, num_rows = random_step(2, 9, 3, 4)
    x = torch.randn(num_rows, spec.hidden_size, generator=torch.Generator().manual_seed(1))
    expected, _ = run(llama, x, cache, 2, prefill, decode)
    for weight in weights.values():
        weight.zero_()
    others = [level for level in cpp.kernels.kernel_levels() if level != kernel_level]
    cpp.kernels.use_kernels((others or [kernel_level])[0])
    try:
        got, _ = run(llama, x, cache, 2, prefill, decode)
    finally:
        cpp.kernels.use_kernels(kernel_level)
    assert torch.equal(got, expected)


def test_a_row_to_read_that_is_not_there_is_refused() -> None:
    spec = text_spec()
    llama = CppLlama(spec, text_weights(spec, 0), NUM_POSITIONS)
    cache = KVCache(spec, NUM_SLOTS, NUM_POSITIONS, torch.float32, CPU)
    prefill = Prefill(torch.tensor([0]), 0, 4, torch.tensor([4]))
    with pytest.raises(IndexError, match="row 4 is to be read, there are 4"):
        llama.forward(torch.zeros(4, spec.hidden_size), cache, prefill, None)


def test_pixels_of_another_size_are_refused() -> None:
    spec = vision_spec()
    tower = CppTower(spec, PREPROCESS, vision_weights(spec, 8, 0))
    with pytest.raises(
        ValueError,
        match=r"pixels is torch.uint8 \[1, 3, 23, 24\] .* on cpu, expected contiguous uint8 \[images, 3, 24, 24\]",
    ):
        tower.encode(torch.zeros(1, 3, 23, 24, dtype=torch.uint8))


def test_gelu_is_within_3e_7() -> None:
    """By way of a projector that hands its input on: one pixel a patch, a tower without layers."""
    x = torch.cat([torch.linspace(-9, 9, 2001), torch.tensor([-1e4, -40.0, 40.0, 1e4])])
    spec = vision_spec(hidden_size=len(x), num_heads=1, num_layers=0, image_size=1, patch_size=1)
    weights = vision_weights(spec, len(x), 0)
    weights["projector.0.weight"], weights["projector.0.bias"] = torch.zeros(len(x), len(x)), x
    weights["projector.1.weight"], weights["projector.1.bias"] = torch.eye(len(x)), torch.zeros(len(x))
    got = CppTower(spec, PREPROCESS, weights).encode(random_pixels(spec, 1, 0)).flatten()
    assert_within(got, tolerance.gelu(exact(x)))


@pytest.mark.parametrize(
    ("precision", "kv_dtype", "whole"),
    [("float32", torch.float32, True), ("float32", torch.float8_e4m3fn, False), ("bfloat16", torch.bfloat16, False)],
)
def test_what_is_not_float32_throughout_stays_in_python(precision: str, kv_dtype: torch.dtype, whole: bool) -> None:
    spec = shapes.llava_llama3_8b(precision=precision, vision=vision_spec(), text=text_spec())
    weights = {**vision_weights(spec.vision, 40, 0), **text_weights(spec.text, 0)}
    weights = {name: weight.to(getattr(torch, precision)) for name, weight in weights.items()}
    tower, llama = step.make_model(spec, weights, NUM_POSITIONS, kv_dtype)
    assert (type(tower), type(llama)) == ((CppTower, CppLlama) if whole else (VisionTower, Llama))
