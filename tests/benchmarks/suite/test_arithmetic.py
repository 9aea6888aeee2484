"""What is expected of a step, beside figures that were worked out by hand and beside what a step is counted to move."""

import dataclasses

import pytest

from inputs.shapes import SHAPES, llava_llama3_8b
from launches import command
from launches.fake_card import NUM_PREFIX, make_spec
from recap_fast.generate.spec import Limits
from suite import arithmetic
from suite.arithmetic import CARDS, expect, find_card, step_ms
from suite.kernels import KINDS
from suite.setting import Findings

LIMITS = Limits(max_new_tokens=128, max_text_tokens=24, num_slots=448, prefill_images=8)
H200, H100 = CARDS


def spec(precision, kv_precision):
    shape = SHAPES["8b"]
    return llava_llama3_8b(
        precision=precision, kv_precision=kv_precision, vision=shape.vision, text=shape.text, limits=LIMITS
    )


@pytest.mark.parametrize(
    ("card", "precision", "kv_precision", "mixed", "decode", "images_per_s"),
    [  # what a review of the engine expected, less the copies around prompts' attention and the pass before O
        (H200, "bfloat16", "auto", 129 - 3.6, 24, 61),
        (H200, "fp8", "auto", 93 - 3.6 - 0.6, 20, 86),
        (H200, "fp8", "fp8", 89 - 3.6 - 0.6 - 1.7, 14.4, 92.5),
        (H100, "bfloat16", "auto", 140 - 5.2, 29, 57),
        (H100, "fp8", "auto", 103 - 5.2 - 0.8, 25, 79),
        (H100, "fp8", "fp8", 98 - 5.2 - 0.8 - 2.4, 17, 86),
    ],
)
def test_a_step_takes_what_was_worked_out_by_hand(card, precision, kv_precision, mixed, decode, images_per_s):
    expected = expect(spec(precision, kv_precision), card, NUM_PREFIX, 65)
    assert sum(expected.mixed_ms.values()) == pytest.approx(mixed, rel=0.02)
    assert sum(expected.decode_ms.values()) == pytest.approx(decode, rel=0.06)
    assert expected.images_per_s == pytest.approx(images_per_s, rel=0.02)
    assert expected.images_per_s > expect(spec(precision, kv_precision), card, NUM_PREFIX, 128).images_per_s


def test_the_texts_of_further_captions_are_a_step_of_their_own():
    """448 slots take 1.72 images of four captions a step: so 21.5 % of the steps have images, as many have texts."""
    given = spec("fp8", "fp8")
    one, four = (expect(given, H200, NUM_PREFIX, 64, captions) for captions in (1, 4))
    texts = sum(step_ms(given, H200, NUM_PREFIX, 64, 0, 24).values())
    rows = 24 * LIMITS.max_text_tokens + LIMITS.num_slots
    assert texts == pytest.approx(1e3 * 2 * rows * 6.98e9 / (0.7 * 1180e12) + 9, abs=1)  # products, then the rest
    mixed, decode = (sum(ms.values()) for ms in (four.mixed_ms, four.decode_ms))
    images = 448 / (4 * 65)
    assert four.images_per_s == pytest.approx(1e3 * images / (images / 8 * (mixed + texts - 2 * decode) + decode))
    assert one.images_per_s / four.images_per_s == pytest.approx(1.7, abs=0.05)


@pytest.mark.parametrize(
    ("size", "precision", "kv_precision"),
    [("8b", "bfloat16", "auto"), ("8b", "fp8", "fp8"), ("joycaption", "fp8", "fp8")],
)
def test_bytes_are_those_that_a_step_is_counted_to_move(size, precision, kv_precision):
    given = make_spec(size, precision, kv_precision, num_slots=448, prefill_images=8)
    card = dataclasses.replace(H200, copy=1e12, streaming=1.0)  # a millisecond a gigabyte
    counted = command.count(given, 65)
    for name, images in (("mixed", 8), ("decode", 0)):
        ms = step_ms(given, card, NUM_PREFIX, 65, images)
        for kind, operations in {
            "norms and what they quantize": ["add_rms_norm_kernel"],
            "SwiGLU and GELU": ["swiglu_kernel", "quick_gelu_kernel", "gelu_tanh_kernel"],
            "RoPE and keys and values": ["rope_store_kernel"],
            "decode attention": ["decode_attention in CUDA C++"],
            "LayerNorm": ["native_layer_norm"],
        }.items():
            moved = sum(counted[name][operation].num_bytes for operation in operations if operation in counted[name])
            assert ms.get(kind, 0.0) == pytest.approx(moved / 1e9, rel=0.06), (name, kind)
        launches = arithmetic.num_launches(given.vision, has_images=images > 0)
        assert counted[name]["total"].launches == pytest.approx(launches, rel=0.03)


def test_captions_of_joycaption_cost_what_was_worked_out_by_hand():
    """729 image tokens and 24 of text; 250 tokens of caption. A slot is taken for 251 steps of 512 slots."""
    given = dataclasses.replace(
        make_spec("joycaption", "fp8", "fp8", num_slots=512, prefill_images=4),
        limits=dataclasses.replace(LIMITS, max_new_tokens=512, num_slots=512, prefill_images=4),
    )
    found = expect(given, H200, 42, 250)
    products = (3524 * 31 + 516) * 2 * 0.218e9 / 1180e12 + 0.6e12 * 4 / 520e12 + 516 * 2 * 0.525e9 / 740e12
    assert found.mixed_ms["matrix products"] == pytest.approx(1e3 * products, rel=0.02)
    assert found.decode_ms["decode attention"] == pytest.approx(1e3 * 512 * 920 * 65536 / (0.85 * 4.3e12), rel=0.01)
    assert found.images_per_s == pytest.approx(48.5, rel=0.02)


def test_kinds_are_those_of_the_profile():
    kinds = {kind for kind, _ in KINDS} | {"between kernels"}
    assert expect(spec("fp8", "fp8"), H100, NUM_PREFIX, 65).mixed_ms.keys() <= kinds


def test_steps_of_both_kinds_are_weighed():
    expected = arithmetic.Expected({"a": 4.0, "b": 1.0}, {"a": 2.0}, 1.0)
    assert expected.mean_ms(3, 1) == {"a": 3.5, "b": 0.75}


def test_cards_are_known_by_name():
    assert find_card("NVIDIA H100 80GB HBM3, 580.95") == H100
    assert find_card("NVIDIA A100-SXM4-80GB") is None


def test_a_figure_is_set_beside_what_was_expected(tmp_path):
    found = Findings(tmp_path / "part.json")
    found.figure("speed", 90.0, 95, "images/s", expected=100.0)
    found.figure("another", 90.0, None, "images/s")
    assert [(line.ratio, line.met) for line in found.lines] == [(0.9, False), (None, None)]
