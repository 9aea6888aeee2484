"""The sums of an engine's memory, for the shape of LLaVA-1.5 on LLaMA-3-8B and for tiny engines that are built."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
import torch

from inputs import shapes
from inputs.oracle import make_pair
from recap_fast.build.recipe import find_recipe, load_recipe
from recap_fast.errors import ConfigError
from recap_fast.generate.spec import Sizes, SlotShape
from recap_fast.generate.torch_backend.memory import GIB, check_fit, fit_slots, plan_memory

MIB = 1 << 20
SHAPE = SlotShape(num_prefix=39, num_image_tokens=576, max_text_tokens=24, max_new_tokens=128)  # 767 positions


def sizes(num_slots, prefill_images=8):
    return Sizes(num_slots=num_slots, prefill_images=prefill_images)


def plan(num_slots=448, prefill_images=8, shape=SHAPE, **changed):
    return plan_memory(shapes.llava_llama3_8b(**changed), shape, sizes(num_slots, prefill_images))


@pytest.mark.parametrize(("changed", "mib"), [({}, 96), ({"kv_precision": "fp8"}, 48), ({"precision": "int8"}, 96)])
def test_a_slot_of_768_positions(changed, mib):
    assert plan(101, **changed).cache - plan(100, **changed).cache == mib * MIB
    assert plan(448, **changed).cache == 449 * mib * MIB  # one is for idle rows


def test_pixels_are_held_twice_in_bytes():
    assert plan().pixels == 2 * 8 * 3 * 336 * 336


def test_the_largest_moment_is_counted():
    rows = 8 * 600 + 448
    assert plan().activations == rows * 4096 * 2 + rows * (2 * 4096 + 3 * 14336) * 2
    assert plan(precision="int8").activations == rows * 4096 * 2 + rows * (2 * 4096 * 2 + 2 * 14336 * 4 + 14336)
    short = dataclasses.replace(SHAPE, max_text_tokens=1)
    few = plan(1, 1, short)
    wide = dataclasses.replace(shapes.llava_llama3_8b().vision, intermediate_size=1 << 16)
    with_wide = plan(1, 1, short, vision=wide)
    assert (
        with_wide.activations - few.activations == 577 * (2 * 1024 + 3 * 65536) * 2 - 578 * (2 * 4096 + 3 * 14336) * 2
    )
    only_heads = plan(20000, 1, short)
    assert only_heads.activations == 20577 * 4096 * 2 + 20001 * 128320 * 6


def test_branches_are_counted_where_they_are_the_largest_moment():
    spec = shapes.llava_llama3_8b()
    assert plan_memory(spec, SHAPE, sizes(448), 4) == plan(), "24 texts of 24 tokens are fewer rows than 8 images"
    long = dataclasses.replace(SHAPE, max_text_tokens=500)
    rows = 8 * 15 * 500 + 448
    found = plan_memory(spec, long, sizes(448), 16)
    assert found.activations == rows * 4096 * 2 + rows * (2 * 4096 + 3 * 14336) * 2
    assert found.cache == plan(shape=long).cache
    short = dataclasses.replace(SHAPE, max_text_tokens=1, num_image_tokens=100_000)
    assert plan_memory(spec, short, sizes(448, 1), 400).activations == 399 * 100_000 * 8 * 128 * 2


def test_fewer_slots_fit_beside_many_branches():
    spec, free = shapes.llava_llama3_8b(), 60 * GIB
    long = dataclasses.replace(SHAPE, max_text_tokens=500)
    one, many = (fit_slots(spec, long, sizes(448), free, captions_per_image=count) for count in (1, 16))
    assert many < one
    check_fit(spec, long, sizes(many), free, captions_per_image=16)
    with pytest.raises(ConfigError, match="The engine does not fit"):
        check_fit(spec, long, sizes(one), free, captions_per_image=16)


@pytest.mark.parametrize("free_gib", [30, 40.7, 55, 79])
def test_as_many_slots_as_fit_in_sixteens(free_gib):
    spec, free = shapes.llava_llama3_8b(), int(free_gib * GIB)
    slots = fit_slots(spec, SHAPE, sizes(10_000), free)
    assert slots % 16 == 0
    assert plan(slots).total <= free < plan(slots + 16).total


def test_no_more_slots_than_wanted_and_few_where_there_is_little_room():
    spec = shapes.llava_llama3_8b()
    assert fit_slots(spec, SHAPE, sizes(448), 200 * GIB) == 448
    assert fit_slots(spec, SHAPE, sizes(37), 200 * GIB) == 37
    free = plan(5, 5).total
    assert fit_slots(spec, SHAPE, sizes(448), free) == 5
    assert fit_slots(spec, SHAPE, sizes(448), free - 1) == 4


def test_what_does_not_fit_is_refused_with_its_sum():
    spec = shapes.llava_llama3_8b()
    check_fit(spec, SHAPE, sizes(448), plan().total)
    message = (
        r"does not fit NVIDIA A100-SXM4-40GB: with num_slots 448 and prefill_images 8 it takes 60\.2 GiB \(weights "
        r"15\.5, cache 42\.1, activations 0\.5, pixels 0\.0, overhead 2\.0\), 39\.0 GiB are free, 21\.2 GiB too few\. "
        r"Lower --num-slots or --prefill-images, or build the engine with --precision fp8 or int8 or kv_precision = "
    )
    with pytest.raises(ConfigError, match=message):
        check_fit(spec, SHAPE, sizes(448), 39 * GIB, "NVIDIA A100-SXM4-40GB")


def test_weights_alone_that_do_not_fit_are_refused():
    with pytest.raises(
        ConfigError, match=r"num_slots 1 and prefill_images 1 .* few. Build the engine with --precision"
    ):
        fit_slots(shapes.llava_llama3_8b(), SHAPE, sizes(448), 12 * GIB)
    smallest = shapes.llava_llama3_8b(precision="fp8", kv_precision="fp8")
    with pytest.raises(ConfigError, match=r"GiB too few. Use a larger device\."):
        fit_slots(smallest, SHAPE, sizes(448), 8 * GIB)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "fp8", "int8"])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_those_of_the_file(tmp_path, precision, tied):
    from safetensors.torch import load_file

    pair = make_pair(tmp_path, precision=precision, text={"tie_word_embeddings": tied})
    tensors = load_file(pair.folder / "weights.safetensors")
    found = plan_memory(pair.spec, SHAPE, sizes(1))
    assert found.weights == sum(t.nbytes for t in tensors.values())
    assert getattr(torch, pair.spec.compute_precision) == tensors["text.embed.weight"].dtype


RECIPES = sorted(p.stem for p in (Path(__file__).parents[3] / "engines").glob("*.toml") if load_recipe(p).cards)


def shape_of(recipe):
    """An engine of the recipe's model, and its slots, with the tokens that its template and its longest prompt take."""
    if not recipe.name.startswith("joycaption"):
        spec = shapes.llava_llama3_8b(precision=recipe.precision, kv_precision=recipe.kv_precision)
        return spec, spec.slot_shape(5)
    shape = shapes.SHAPES["joycaption"]
    spec = shapes.llava_llama3_8b(
        precision=recipe.precision, kv_precision=recipe.kv_precision, vision=shape.vision, text=shape.text
    )
    limits = {"max_text_tokens": 128, "max_new_tokens": recipe.limits.max_new_tokens}
    return spec, spec.slot_shape(39, **limits)


@pytest.mark.parametrize("name", RECIPES)
def test_the_sums_in_the_recipes_are_right_and_fit(name):
    recipe, text = load_recipe(name), find_recipe(name).read_text()
    spec, shape = shape_of(recipe)
    row = r'^"(.+)" += {.*}  # ([\d.]+) \+ ([\d.]+) \+ ([\d.]+) = ([\d.]+) of (\d+)$'
    sums = {card: tuple(map(float, rest)) for card, *rest in re.findall(row, text, re.M)}
    assert sums.keys() == tomllib.loads(text)["cards"].keys() <= recipe.cards.keys()
    for card, (weights, cache, rest, total, memory) in sums.items():
        found = plan_memory(spec, shape, recipe.cards[card])
        assert [weights, cache, total] == [round(b / GIB, 1) for b in (found.weights, found.cache, found.total)]
        assert weights + cache + rest == pytest.approx(total)
        assert total <= memory - 1
