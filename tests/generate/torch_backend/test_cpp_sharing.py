"""Captions of one image in C++: its keys and values are read once for several of them, with the same result."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import exact_model
from support.tolerance import assert_within, exact
from torch import Tensor

from inputs.shapes import SHAPES
from recap_fast.generate.layout import plan_text
from recap_fast.generate.ops import Rows
from recap_fast.generate.spec import TextSpec
from recap_fast.generate.torch_backend.cpp_model import CppLlama
from recap_fast.generate.torch_backend.llama import KVCache, Prefill

pytestmark = pytest.mark.usefixtures("kernel_level")

NUM_SLOTS, NUM_POSITIONS, NUM_SHARED = 12, 90, 37
SPEC = dataclasses.replace(SHAPES["tiny"].text, head_dim=32)
CPU = torch.device("cpu")


def weights_of(spec: TextSpec, seed: int) -> dict[str, Tensor]:
    return exact_model.random_weights(plan_text(spec), seed)


def shared_cache(spec: TextSpec, images: Tensor, seed: int) -> KVCache:
    """Random numbers; slots of one image begin with the same."""
    cache = KVCache(spec, NUM_SLOTS, NUM_POSITIONS, torch.float32, CPU)
    cache.data.copy_(torch.randn(cache.data.shape, generator=torch.Generator().manual_seed(seed)))
    for image in images.unique():
        first, *others = (images == image).nonzero()[:, 0].tolist()
        cache.data[:, :, others, :, :NUM_SHARED] = cache.data[:, :, first : first + 1, :, :NUM_SHARED]
    return cache


def random_rows(num_rows: int, seed: int) -> Tensor:
    return torch.randn(num_rows, SPEC.hidden_size, generator=torch.Generator().manual_seed(seed))


def forward(llama: CppLlama, x: Tensor, cache: KVCache, *rows: Prefill | Rows | None) -> Tensor:
    with torch.inference_mode():
        return llama.forward(x.clone(), cache, *rows)


@given(
    images=st.lists(st.integers(0, 3), min_size=NUM_SLOTS, max_size=NUM_SLOTS).map(torch.tensor),
    positions=st.lists(st.integers(0, NUM_POSITIONS), min_size=NUM_SLOTS, max_size=NUM_SLOTS).map(torch.tensor),
    num_prompts=st.integers(0, 3),
    heads=st.sampled_from([(2, 2), (4, 2), (6, 2), (14, 2), (3, 1)]),
    head_dim=st.sampled_from([16, 20, 64]),
    seed=st.integers(0, 99),
)
def test_captions_of_one_image_are_computed_as_each_alone(
    images: Tensor, positions: Tensor, num_prompts: int, heads: tuple[int, int], head_dim: int, seed: int
) -> None:
    """Captions within the image, at its end and behind it, and idle ones; texts of branches beside them.

    Whole vectors of a head are added up in the same order, so that not a bit changes.
    """
    spec = dataclasses.replace(SPEC, num_heads=heads[0], num_kv_heads=heads[1], head_dim=head_dim)
    weights = weights_of(spec, seed)
    llama = CppLlama(spec, weights, NUM_POSITIONS)
    slots = torch.arange(num_prompts, NUM_SLOTS)
    decode = Rows(slots, positions[slots])
    last_rows = torch.arange(num_prompts) * 5 + 3
    prefill = Prefill(torch.arange(num_prompts), NUM_SHARED, 5, last_rows) if num_prompts else None
    x = random_rows(len(slots) + 5 * num_prompts, seed)
    alone, together = shared_cache(spec, images, seed), shared_cache(spec, images, seed)
    together.images = images, NUM_SHARED
    expected, found = (forward(llama, x, cache, prefill, decode) for cache in (alone, together))
    if head_dim % 16 == 0:
        assert torch.equal(found, expected)
    busy = torch.cat([torch.ones(num_prompts, dtype=torch.bool), decode.positions < NUM_POSITIONS])
    held = shared_cache(spec, images, seed).data
    exactly, _ = exact_model.decode(spec, weights, exact(x), held, prefill, decode)
    assert_within(found[busy], exactly[busy])


def test_what_one_slot_holds_is_read_for_up_to_four() -> None:
    llama, x = CppLlama(SPEC, weights_of(SPEC, 0), NUM_POSITIONS), random_rows(NUM_SLOTS, 1)
    images = torch.tensor([7, 7, 8, 7, 7, 7, 9, 8, 7, 7, 7, 7])  # nine captions of an image are read in three parts
    decode = Rows(torch.arange(NUM_SLOTS), torch.full((NUM_SLOTS,), 60))
    expected = forward(llama, x, shared_cache(SPEC, images, 0), None, decode)
    cache = shared_cache(SPEC, images, 0)
    unread = [1, 3, 4, 7, 8, 9, 10]
    cache.data[:, :, unread, :, :NUM_SHARED] = float("nan")
    cache.images = images, NUM_SHARED
    assert torch.equal(forward(llama, x, cache, None, decode), expected)
