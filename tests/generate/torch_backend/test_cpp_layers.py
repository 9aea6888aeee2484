"""The decoder in one call of C++ beside the same layers in float64, and what both models refuse."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import exact_model
from support.tolerance import assert_within, exact
from torch import Tensor

from inputs.shapes import SHAPES, llava_llama3_8b
from recap_fast.generate.layout import plan_text, plan_weights
from recap_fast.generate.model_spec import TextSpec, VisionSpec
from recap_fast.generate.ops import Rows, cpp
from recap_fast.generate.torch_backend import step
from recap_fast.generate.torch_backend.cpp_model import CppLlama
from recap_fast.generate.torch_backend.llama import KVCache, Llama, Prefill

pytestmark = pytest.mark.usefixtures("kernel_level")

NUM_SLOTS, NUM_POSITIONS = 7, 60
CPU = torch.device("cpu")


def assert_same_bits(compute: Callable[[], tuple[Tensor, ...]]) -> None:
    """With any number of threads."""
    torch.set_num_threads(1)
    expected = compute()
    for num_threads in (2, 3, 5):
        torch.set_num_threads(num_threads)
        for _ in range(10):
            assert all(map(torch.equal, compute(), expected))


def text_spec(**changed: Any) -> TextSpec:
    return dataclasses.replace(SHAPES["tiny"].text, **changed)


def vision_spec(**changed: Any) -> VisionSpec:
    return dataclasses.replace(SHAPES["tiny"].vision, **changed)


def text_weights(spec: TextSpec, seed: int = 0) -> dict[str, Tensor]:
    return exact_model.random_weights(plan_text(spec), seed)


def make_decoder(spec: TextSpec, weights: dict[str, Tensor]) -> tuple[CppLlama, KVCache]:
    return CppLlama(spec, weights, NUM_POSITIONS), KVCache(spec, NUM_SLOTS, NUM_POSITIONS, torch.float32, CPU)


def random_step(prompts: int, length: int, start: int, captions: int) -> tuple[Prefill | None, Rows | None, int]:
    """Prompts in the first slots, their last rows padding or not, captions at many positions in the others; of neither
    none, a caption."""
    captions = captions or int(prompts == 0)
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
    llama, cache = make_decoder(spec, weights)
    got, found = run(llama, x, cache, seed + 2, *rows)
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
    qkv_bias=st.booleans(),
    qk_norm=st.booleans(),
    step=st.builds(
        random_step,
        prompts=st.integers(0, 3),
        length=st.integers(1, 40),
        start=st.integers(0, 6),
        captions=st.integers(0, 4),
    ),
    seed=st.integers(0, 99),
)
def test_decoder(num_kv_heads: int, group: int, half_head_dim: int, step: Any, seed: int, **shape: Any) -> None:
    heads = {"num_kv_heads": num_kv_heads, "num_heads": num_kv_heads * group, "head_dim": 2 * half_head_dim}
    assert_exact(text_spec(**heads, **shape), seed, step)


@pytest.mark.parametrize("rows", [13, 14, 15, 27, 28, 29, 57])
def test_decoder_with_all_kinds_of_blocks(rows: int) -> None:
    """Blocks of products have up to 14 rows and 32 columns."""
    spec = text_spec(hidden_size=96, intermediate_size=160, head_dim=32, vocab_size=64)
    assert_exact(spec, 0, random_step(1, rows, 2, 5))


@pytest.mark.usefixtures("same_threads")
def test_decoder_gives_the_same_bits_with_any_number_of_threads() -> None:
    spec = text_spec(hidden_size=130, intermediate_size=300, head_dim=24, vocab_size=500, qkv_bias=True, qk_norm=True)
    llama, cache = make_decoder(spec, text_weights(spec))
    prefill, decode, num_rows = random_step(3, 30, 5, 4)
    x = torch.randn(num_rows, spec.hidden_size, generator=torch.Generator().manual_seed(1))
    assert_same_bits(lambda: run(llama, x, cache, 2, prefill, decode))


def places(*given: tuple[int, int]) -> Rows:
    return Rows(*map(torch.tensor, zip(*given, strict=True)))


@pytest.mark.parametrize(
    ("x", "prefill", "decode", "error", "message"),
    [
        (
            torch.zeros(1, 64).bfloat16(),
            None,
            places((1, 0)),
            ValueError,
            r"x is torch.bfloat16 \[1, 64\] .* on cpu, expected contiguous float32 \[rows, 64\]",
        ),
        (
            torch.zeros(4, 64),
            Prefill(torch.tensor([0]), 0, 4, torch.tensor([4])),
            None,
            IndexError,
            "row 4 is to be read, there are 4",
        ),
        *(
            (torch.zeros(2, 64), None, places((1, 0), at), IndexError, f"row 1 is at slot {at[0]}, position {at[1]} of")
            for at in [(-1, 0), (NUM_SLOTS, 0), (0, -1), (0, NUM_POSITIONS + 1)]
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    x: Tensor, prefill: Prefill | None, decode: Rows | None, error: type[Exception], message: str
) -> None:
    llama, cache = make_decoder(text_spec(), text_weights(text_spec()))
    with pytest.raises(error, match=message):
        llama.forward(x, cache, prefill, decode)
    assert not cache.data.any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vision.layers.1.norm2.bias", r"vision.layers.1.norm2.bias is .* \[47\] .*, expected .* \[48\]"),
        ("vision.position", r"vision.position is .* \[16, 48\] .*, expected .* \[17, 48\]"),
        ("projector.0.weight", r"projector.0.bias is .* \[64\] .*, expected .* \[63\]"),
        ("text.layers.0.norm1.weight", r"text.layers.0.norm1.weight is .* \[63\] .*, expected .* \[64\]"),
        ("text.layers.1.qkv.weight", r"text.layers.1.qkv.weight is .* \[127, 64\] .*, expected .* \[128, 64\]"),
        ("text.layers.0.qkv.bias", r"text.layers.0.qkv.bias is .* \[127\] .*, expected .* \[128\]"),
        ("text.layers.1.k_norm.weight", r"text.layers.1.k_norm.weight is .* \[15\] .*, expected .* \[16\]"),
        ("text.layers.1.down.weight", r"text.layers.1.down.weight is .* \[63, 160\] .*, expected .* \[64, 160\]"),
    ],
)
def test_weights_of_another_shape_are_refused(name: str, message: str) -> None:
    spec = llava_llama3_8b(precision="float32", vision=vision_spec(), text=text_spec(qkv_bias=True, qk_norm=True))
    weights = exact_model.random_weights(plan_weights(spec.vision, spec.text), 0)
    weights[name] = weights[name][1:]
    with pytest.raises(ValueError, match=message):
        step.make_model(spec, weights, NUM_POSITIONS, torch.float32)


def test_shapes_that_no_model_has_are_refused() -> None:
    text = text_spec(num_heads=3, num_kv_heads=2)
    with pytest.raises(ValueError, match="query heads cannot share the key/value heads evenly"):
        CppLlama(text, text_weights(text), NUM_POSITIONS)


def test_a_head_of_another_vocabulary_is_refused() -> None:
    spec, weights = text_spec(), text_weights(text_spec())
    llama, cache = make_decoder(spec, {**weights, "text.head.weight": weights["text.head.weight"][1:]})
    with pytest.raises(ValueError, match=r"logits is .* \[1, 640\] .*, expected contiguous float32 \[1, 639\]"):
        llama.forward(torch.zeros(1, 64), cache, None, places((1, 0)))


def test_models_have_weights_of_their_own_and_keep_their_kernels(kernel_level: str) -> None:
    spec, weights = text_spec(), text_weights(text_spec())
    llama, cache = make_decoder(spec, weights)
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
