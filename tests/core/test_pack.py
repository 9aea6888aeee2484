"""The core's packing against tests/reference.py."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import reference

from recap_fast.arrow_core import core

INT32 = st.integers(-(2**31), 2**31 - 1)


def arrays(rows: list[list[int]]) -> list[np.ndarray]:
    return [np.array(row, np.int32) for row in rows]


@given(
    texts=st.lists(st.lists(INT32, max_size=6), max_size=5),
    num_image_tokens=st.integers(1, 7),
    spare_width=st.integers(0, 3),
    spare_rows=st.integers(0, 3),
)
def test_pack_prompts_is_the_reference(
    texts: list[list[int]],
    num_image_tokens: int,
    spare_width: int,
    spare_rows: int,
):
    width = max(map(len, texts), default=0) + spare_width
    rows = max(len(texts) + spare_rows, 1)
    packed = core.pack_prompts(arrays(texts), num_image_tokens, width, rows=rows)
    expected = reference.pack_prompts(texts, num_image_tokens, width, rows)
    for found, wanted in zip(packed, expected, strict=True):
        np.testing.assert_array_equal(found, wanted, strict=True)


@given(texts=st.lists(st.lists(INT32, min_size=1, max_size=6), min_size=1, max_size=5), spare_width=st.integers(0, 3))
def test_texts_alone_are_packed_as_behind_images(texts: list[list[int]], spare_width: int):
    width = max(map(len, texts)) + spare_width
    packed = core.pack_prompts(arrays(texts), 0, width)
    np.testing.assert_equal(packed, reference.pack_prompts(texts, 0, width, len(texts)))


def test_rows_are_as_many_as_texts_by_default():
    packed = core.pack_prompts(arrays([[1], [2, 3]]), 4, 5)
    np.testing.assert_equal(packed, reference.pack_prompts([[1], [2, 3]], 4, 5, 2))


def test_a_long_text_is_refused_with_its_length():
    with pytest.raises(ValueError, match="text 1 has 3 tokens, the prefill takes 2"):
        core.pack_prompts(arrays([[1], [1, 2, 3]]), 3, 2)


def test_a_prompt_without_any_token_is_refused():
    with pytest.raises(ValueError, match="prompt 1 has neither image tokens nor text"):
        core.pack_prompts(arrays([[1]]), 0, 2, rows=2)


def test_more_texts_than_rows_are_refused():
    with pytest.raises(ValueError, match="2 texts for a prefill of 1 rows"):
        core.pack_prompts(arrays([[1], [2]]), 3, 2, rows=1)


@pytest.mark.parametrize(
    "shape",
    [
        (0, 3, 2),
        (2, -1, 2),
        (2, 3, -1),
        (2**40, 3, 0),
        (2**15, 3, 2**15),
        (2, 2**62, 2),
    ],
)
def test_numbers_that_are_no_shape_are_refused(shape: tuple[int, int, int]):
    rows, num_image_tokens, width = shape
    with pytest.raises(ValueError, match=f"no prefill has {rows} rows of {num_image_tokens} image tokens"):
        core.pack_prompts([], num_image_tokens, width, rows=rows)


def test_ids_of_a_wider_type_are_refused():
    with pytest.raises(TypeError, match="incompatible function arguments"):
        core.pack_prompts([np.array([2**40])], 3, 2)
    with pytest.raises(ValueError, match="one dimension"):
        core.pack_prompts([np.zeros((2, 2), np.int32)], 3, 2)


def test_the_gil_is_released(assert_releases_gil: Callable[..., None]):
    assert_releases_gil(lambda: core.pack_prompts([], 1, 0, rows=1_000_000))
