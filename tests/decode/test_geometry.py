import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.decode.geometry import crop_window, pad_window, resized_size

SIDES = st.integers(1, 20_000)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (640, 480, (448, 336)),
        (480, 640, (336, 448)),
        (337, 501, (336, 499)),
        (333, 1001, (336, 1010)),
        (5, 5, (336, 336)),
    ],
)
def test_the_long_side_is_truncated_not_rounded(width, height, expected):
    assert resized_size(width, height, 336) == expected  # 499.5 and 1010.02: rounding would give 500


@given(SIDES, SIDES, st.sampled_from([112, 224, 336, 384]))
def test_the_resized_size_equals_integer_division(width, height, size):
    short, long = sorted((width, height))
    assert sorted(resized_size(width, height, size)) == [size, size * long // short]


@given(SIDES, SIDES)
def test_the_pad_window_is_the_square_with_the_image_in_its_middle(width, height):
    left, top, *sides = pad_window(width, height)
    assert sides == [max(width, height)] * 2
    assert (-left, -top) == ((sides[0] - width) // 2, (sides[1] - height) // 2)
    assert left <= 0
    assert top <= 0


@pytest.mark.parametrize(("width", "height", "expected"), [(449, 336, (56, 0)), (336, 339, (0, 1)), (336, 336, (0, 0))])
def test_the_crop_window_rounds_its_offset_down(width, height, expected):
    assert crop_window(width, height, 336) == (*expected, 336, 336)
