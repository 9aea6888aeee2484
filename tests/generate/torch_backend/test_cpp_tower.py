"""The vision tower in one call of C++ beside the same layers in float64."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support import exact_model, tolerance
from support.tolerance import assert_within, exact
from torch import Tensor

from inputs.shapes import SHAPES
from recap_fast.generate.layout import plan_weights
from recap_fast.generate.model_spec import VisionSpec
from recap_fast.generate.torch_backend.cpp_model import CppTower
from recap_fast.records import Preprocess

pytestmark = pytest.mark.usefixtures("kernel_level")

PREPROCESS = Preprocess(32, "pad", (0.481, 0.458, 0.408), (0.269, 0.261, 0.276))


def vision_spec(**changed: Any) -> VisionSpec:
    return dataclasses.replace(SHAPES["tiny"].vision, **changed)


def vision_weights(spec: VisionSpec, projector_width: int = 8, seed: int = 0) -> dict[str, Tensor]:
    return exact_model.random_weights(
        plan_weights(spec, dataclasses.replace(SHAPES["tiny"].text, hidden_size=projector_width, num_layers=0)), seed
    )


def assert_tower_exact(spec: VisionSpec, weights: dict[str, Tensor], pixels: Tensor) -> None:
    got = CppTower(spec, PREPROCESS, weights).encode(pixels)
    assert_within(got, exact_model.encode(spec, PREPROCESS, weights, pixels))


def random_pixels(spec: VisionSpec, count: int, seed: int) -> Tensor:
    shape = (count, 3, spec.image_size, spec.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@given(
    num_heads=st.integers(1, 3),
    head_width=st.sampled_from([1, 3, 16, 20, 24, 32, 40, 64, 72]),
    intermediate_size=st.integers(1, 130),
    num_layers=st.integers(0, 2),
    patch_size=st.integers(1, 9),
    image_size=st.integers(9, 40),
    activation=st.sampled_from(["quick_gelu", "gelu", "gelu_tanh"]),
    has_class_token=st.booleans(),
    has_pre_norm=st.booleans(),
    has_patch_bias=st.booleans(),
    select=st.sampled_from(["default", "full"]),
    projector_width=st.integers(1, 70),
    has_bias=st.booleans(),
    images=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_tower(
    num_heads: int, head_width: int, projector_width: int, has_bias: bool, images: int, seed: int, **shape: Any
) -> None:
    """CLIP, SigLIP and others; also where patches leave a rest of the image, and of projectors without a bias."""
    shape["patch_size"] = max(shape["patch_size"], shape["image_size"] // 6)  # some hundred patches at most
    spec = vision_spec(num_heads=num_heads, hidden_size=num_heads * head_width, **shape)
    assume(spec.num_image_tokens > 0)
    weights = vision_weights(spec, projector_width, seed)
    if not has_bias:
        del weights["projector.0.bias"], weights["projector.1.bias"]
    assert_tower_exact(spec, weights, random_pixels(spec, images, seed))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "gelu_tanh"])
def test_tower_with_each_activation(activation: str) -> None:
    """With layers that are wide enough for a constant that is slightly off to be seen, which few random ones are."""
    spec = vision_spec(activation=activation)
    assert_tower_exact(spec, vision_weights(spec), random_pixels(spec, 2, 0))


@pytest.mark.usefixtures("same_threads")
def test_tower_gives_the_same_bits_with_any_number_of_threads() -> None:
    spec = vision_spec(hidden_size=120, image_size=64)
    tower, pixels = CppTower(spec, PREPROCESS, vision_weights(spec, 75)), random_pixels(spec, 5, 0)
    torch.set_num_threads(1)
    expected = tower.encode(pixels)
    for num_threads in (2, 3, 5):
        torch.set_num_threads(num_threads)
        for _ in range(10):
            assert torch.equal(tower.encode(pixels), expected)


def test_no_pixels_give_no_tokens_and_those_of_another_size_an_error() -> None:
    tower = CppTower(vision_spec(), PREPROCESS, vision_weights(vision_spec()))
    assert tower.encode(random_pixels(vision_spec(), 0, 0)).shape == (0, 16, 8)
    message = r"pixels is torch.uint8 \[1, 3, 31, 32\] .* on cpu, expected contiguous uint8 \[images, 3, 32, 32\]"
    with pytest.raises(ValueError, match=message):
        tower.encode(torch.zeros(1, 3, 31, 32, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "the channels cannot be divided among the heads"),
        ({"has_class_token": False, "patch_size": 32}, "num_dropped leaves no positions"),
        ({"image_size": 7}, "an image is smaller than a patch"),
    ],
)
def test_shapes_that_no_tower_has_are_refused(changes: dict[str, Any], message: str) -> None:
    spec = vision_spec(**changes)
    with pytest.raises(ValueError, match=message):
        CppTower(spec, PREPROCESS, vision_weights(spec))


def test_so400ms_layers() -> None:
    """A layer of SigLIP-so400m's widths over some patches."""
    spec = dataclasses.replace(SHAPES["joycaption"].vision, num_layers=1, image_size=44)
    assert_tower_exact(spec, vision_weights(spec, 16), random_pixels(spec, 1, 0))


def test_gelu_is_within_3e_7() -> None:
    """By way of a projector that hands its input on: one pixel a patch, a tower without layers."""
    x = torch.cat([torch.linspace(-9, 9, 2001), torch.tensor([-1e4, -40.0, 40.0, 1e4])])
    spec = vision_spec(hidden_size=len(x), num_heads=1, num_layers=0, image_size=1, patch_size=1)
    weights = vision_weights(spec, len(x))
    weights["projector.0.weight"], weights["projector.0.bias"] = torch.zeros(len(x), len(x)), x
    weights["projector.1.weight"], weights["projector.1.bias"] = torch.eye(len(x)), torch.zeros(len(x))
    got = CppTower(spec, PREPROCESS, weights).encode(random_pixels(spec, 1, 0)).flatten()
    assert_within(got, tolerance.gelu(exact(x)))
