"""What build-engine says of the memory agrees with what an engine is opened with."""

import dataclasses
import re

import pytest

from inputs import shapes
from recap_fast.build.engine_directory import build_engine
from recap_fast.build.recipe import load_recipe
from recap_fast.build.summary import memory_on_cpu, memory_on_gpu, summarize
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.spec import Limits
from recap_fast.generate.torch_backend.memory import GIB
from recap_fast.generate.torch_backend.sizes import choose_sizes

SMALLER = ". With --precision int8 the weights take 9.0 GiB"


@pytest.fixture
def spec():
    recipe = load_recipe("llava_llama3_8b")
    limits = Limits(max_new_tokens=128, max_text_tokens=24, num_slots=256, prefill_images=8)
    return dataclasses.replace(shapes.llava_llama3_8b(), cards=recipe.cards, limits=limits)


@pytest.mark.parametrize(
    ("card", "free_gib", "expected"),
    [
        ("", None, r"41.1 GiB \(.* of 256 captions at once 23.0 GiB, .*\); at least 17.8 GiB, with fewer captions"),
        (
            "NVIDIA H200",
            139,
            r"58.3 GiB \(weights 15.5 GiB, .* of 448 captions .* 40.2 GiB, the rest .*\) of NVIDIA H200",
        ),
        (
            "RTX 4090",
            23,
            r"41.1 GiB .*; RTX 4090 has 23.0 GiB free, so it makes 48 captions at once. With --pre.* 9.0 GiB",
        ),
        (
            "RTX 4080",
            15.5,
            r"41.1 GiB .*; RTX 4080 has 15.5 GiB free, which is too little: it takes at least 17.8 GiB. With --precis",
        ),
    ],
)
def test_the_memory_on_a_card(spec, card, free_gib, expected):
    shape, free_bytes = spec.slot_shape(5), None if free_gib is None else int(free_gib * GIB)
    text = memory_on_gpu(spec, shape, card, free_bytes)
    assert re.match(expected, text)
    if free_bytes is not None and "too little" not in text:
        sizes = choose_sizes(spec, shape, EngineOptions(), None, device=card, memory_bytes=free_bytes, is_cpu=False)
        assert f"{sizes.num_slots} captions" in text


@pytest.mark.parametrize(
    ("memory_gib", "expected"),
    [
        (32, "; this process may use 32.0 GiB"),
        (24, "; this process may use 24.0 GiB, so it makes 48 captions at once" + SMALLER),
        (8, "; this process may use 8.0 GiB, which is too little for the weights: it will be very slow" + SMALLER),
    ],
)
def test_the_memory_on_a_cpu(spec, memory_gib, expected):
    text = memory_on_cpu(spec, spec.slot_shape(5), memory_gib * GIB)
    assert text == f"24.2 GiB (weights 15.5 GiB, keys and values of 96 captions at once 8.7 GiB){expected}"


def test_what_an_engine_will_be_is_said_before_a_weight_is_written(tmp_path, checkpoint):
    said = []
    build_engine(
        "llava",
        checkpoint,
        tmp_path / "engine",
        announce=lambda spec, tokenizer: said.append(summarize(spec, tokenizer)),
        progress=lambda done, total: said.append("written"),
    )
    what, fed, *memory = said[0].splitlines()
    assert said[1] == "written"
    assert what == "checkpoint: 2 decoder layers of 64, 16 image tokens, 1 MiB of weights in float32"
    assert fed == "Template llama3. Images are padded to a square of 32 pixels a side, bicubic."
    assert memory
    assert all(re.match(r"Memory.*: \d.*\.$", line) for line in memory)
