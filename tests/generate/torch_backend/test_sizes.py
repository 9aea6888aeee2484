import functools

import pytest

from inputs import shapes
from recap_fast.errors import ConfigError
from recap_fast.generate.engine import EngineOptions
from recap_fast.generate.spec import Limits, Sizes
from recap_fast.generate.torch_backend.memory import GIB
from recap_fast.generate.torch_backend.sizes import choose_sizes, default_sizes

CARDS = {
    "H200": Sizes(num_slots=400, prefill_images=7),
    "A100 80GB": Sizes(num_slots=320, prefill_images=5),
    "A100": Sizes(num_slots=160, prefill_images=4),
}
TUNED = Sizes(num_slots=200, prefill_images=6)


def choose(tuned=None, *, device="NVIDIA H200", free_gib=139, is_cpu=False, limits=None, **options):
    changed = {"cards": CARDS} if limits is None else {"cards": CARDS, "limits": limits}
    spec = shapes.llava_llama3_8b(**changed)
    return choose_sizes(
        spec,
        spec.slot_shape(7),
        EngineOptions(**options),
        tuned,
        device=device,
        memory_bytes=int(free_gib * GIB),
        is_cpu=is_cpu,
    )


def sizes(num_slots, prefill_images):
    return Sizes(num_slots=num_slots, prefill_images=prefill_images)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("NVIDIA H200", sizes(400, 7)),
        ("NVIDIA H200 NVL", sizes(400, 7)),
        ("NVIDIA GH200 480GB", sizes(448, 8)),
        ("NVIDIA A100-SXM4-80GB", sizes(320, 5)),
        ("NVIDIA A100 80GB PCIe", sizes(320, 5)),
        ("NVIDIA A100-SXM4-40GB", sizes(160, 4)),
        ("NVIDIA L40S", sizes(448, 8)),
    ],
)
def test_a_card_is_found_by_the_words_of_its_name(device, expected):
    assert default_sizes(shapes.llava_llama3_8b(cards=CARDS), device, is_cpu=False) == expected


def test_asked_for_comes_before_tuned_before_the_card_before_the_limits():
    assert choose(device="NVIDIA L40S") == sizes(448, 8)
    assert choose() == sizes(400, 7)
    assert choose(TUNED) == TUNED
    assert choose(TUNED, num_slots=300, prefill_images=9) == sizes(300, 9)
    assert choose(TUNED, prefill_images=3) == sizes(200, 3)


def test_no_more_slots_than_fit_unless_they_are_asked_for():
    few = choose(free_gib=24)
    assert (few.num_slots % 16, few.prefill_images) == (0, 7)
    assert 16 <= few.num_slots < 100
    assert choose(TUNED, free_gib=24) == sizes(few.num_slots, 6)
    with pytest.raises(ConfigError, match=r"does not fit NVIDIA H200: with num_slots 400 and prefill_images 7"):
        choose(free_gib=24, num_slots=400)
    with pytest.raises(ConfigError, match=r"does not fit NVIDIA H200: with num_slots 1 and"):
        choose(free_gib=12)


def test_fewer_slots_than_planned_have_smaller_prefills():
    assert choose(num_slots=8) == sizes(8, 2)
    assert choose(num_slots=3) == sizes(3, 1)
    assert choose(num_slots=3, prefill_images=8) == sizes(3, 3)
    tiny = Limits(max_new_tokens=8, max_text_tokens=8, num_slots=8, prefill_images=4)
    assert choose(device="NVIDIA L40S", limits=tiny) == sizes(8, 4)


def test_prefills_of_several_captions_an_image_leave_three_of_four_slots_as_well():
    assert choose(captions_per_image=4) == sizes(400, 7)
    assert choose(captions_per_image=16) == sizes(400, 6)
    assert choose(num_slots=32, captions_per_image=4) == sizes(32, 2)
    assert choose(num_slots=8, captions_per_image=4) == sizes(8, 1)
    assert choose(num_slots=8, captions_per_image=4, prefill_images=3) == sizes(8, 3)
    on_cpu = functools.partial(choose, device="cpu (2 threads)", is_cpu=True)
    assert on_cpu(captions_per_image=4) == sizes(96, 6)


def test_a_cpu_has_fewer_slots_as_many_as_fit_and_at_least_one():
    on_cpu = functools.partial(choose, device="cpu (2 threads)", is_cpu=True)
    assert on_cpu() == sizes(96, 8)
    assert on_cpu(TUNED) == TUNED
    assert on_cpu(free_gib=24) == on_cpu(TUNED, free_gib=24, prefill_images=8) == sizes(48, 8)
    assert on_cpu(free_gib=18.5) == sizes(7, 1)
    assert on_cpu(free_gib=8) == sizes(1, 1)
    assert on_cpu(free_gib=8, num_slots=1000) == sizes(1000, 8)
