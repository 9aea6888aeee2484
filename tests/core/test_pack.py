"""The core's packing against tests/reference.py."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import reference

from recap_fast.arrow_core import core

FIELDS = ("text_ids", "lengths", "last_rows", "positions", "image_rows", "text_rows")
INT32 = st.integers(-(2**31), 2**31 - 1)


def arrays(rows: list[list[int]]) -> list[np.ndarray]:
    return [np.array(row, np.int32) for row in rows]


def fields(packed: core.PackedPrompts) -> dict[str, np.ndarray]:
    return {name: getattr(packed, name) for name in FIELDS}


def empty_buffers(rows: int, num_image_tokens: int, width: int) -> dict[str, np.ndarray]:
    """Arrays full of a number that no packing writes."""
    sizes = {
        "text_ids": (rows, width),
        **dict.fromkeys(["lengths", "last_rows", "positions"], rows),
        "image_rows": rows * num_image_tokens,
        "text_rows": rows * width,
    }
    return {n: np.full(size, -7, np.int32 if n in ("text_ids", "lengths") else np.int64) for n, size in sizes.items()}


@given(rows=st.lists(st.lists(INT32)))
def test_pack_rows_is_the_reference(rows: list[list[int]]):
    values, offsets = core.pack_rows(arrays(rows))
    expected_values, expected_offsets = reference.pack_rows(rows)
    np.testing.assert_array_equal(values, np.array(expected_values, np.int32), strict=True)
    np.testing.assert_array_equal(offsets, np.array(expected_offsets, np.int64), strict=True)


@given(
    texts=st.lists(st.lists(INT32, max_size=6), max_size=5),
    num_image_tokens=st.integers(1, 7),
    spare_width=st.integers(0, 3),
    prefix_length=st.integers(0, 9),
    spare_rows=st.integers(0, 3),
    given_buffers=st.booleans(),
)
def test_pack_prompts_is_the_reference(
    texts: list[list[int]],
    num_image_tokens: int,
    spare_width: int,
    prefix_length: int,
    spare_rows: int,
    given_buffers: bool,
):
    width = max(map(len, texts), default=0) + spare_width
    rows = max(len(texts) + spare_rows, 1)
    out = core.PackedPrompts(**empty_buffers(rows, num_image_tokens, width)) if given_buffers else None
    packed = core.pack_prompts(arrays(texts), num_image_tokens, width, prefix_length=prefix_length, rows=rows, out=out)
    expected = reference.pack_prompts(texts, num_image_tokens, width, prefix_length, rows)
    for name, value in fields(packed).items():
        np.testing.assert_array_equal(value, expected[name], strict=True, err_msg=name)


def test_rows_are_as_many_as_texts_by_default():
    packed = core.pack_prompts(arrays([[1], [2, 3]]), 4, 5)
    expected = reference.pack_prompts([[1], [2, 3]], 4, 5, 0, 2)
    np.testing.assert_equal(fields(packed), expected)


def test_the_callers_buffers_are_filled_in_place():
    buffers = empty_buffers(2, 3, 4)
    out = core.PackedPrompts(**buffers)
    assert core.pack_prompts(arrays([[5, 6]]), 3, 4, prefix_length=1, rows=2, out=out) is out
    np.testing.assert_equal(buffers, reference.pack_prompts([[5, 6]], 3, 4, 1, 2))


def test_a_long_text_is_refused_with_its_length_and_nothing_is_written():
    buffers = empty_buffers(2, 3, 2)
    with pytest.raises(ValueError, match="text 1 has 3 tokens, the prefill takes 2"):
        core.pack_prompts(arrays([[1], [1, 2, 3]]), 3, 2, out=core.PackedPrompts(**buffers))
    np.testing.assert_equal(buffers, empty_buffers(2, 3, 2))


def test_more_texts_than_rows_are_refused():
    with pytest.raises(ValueError, match="2 texts for a prefill of 1 rows"):
        core.pack_prompts(arrays([[1], [2]]), 3, 2, rows=1)


@pytest.mark.parametrize("name", FIELDS)
def test_buffers_of_another_size_are_refused(name: str):
    buffers = empty_buffers(2, 3, 2)
    buffers[name] = np.concatenate([buffers[name], buffers[name]])
    size = buffers[name].size
    with pytest.raises(ValueError, match=f"{name} has {size} elements, expected {size // 2}"):
        core.pack_prompts(arrays([[1], [2]]), 3, 2, out=core.PackedPrompts(**buffers))


def test_buffers_of_another_kind_are_refused():
    buffers = empty_buffers(2, 3, 2)
    with pytest.raises(TypeError, match="incompatible constructor arguments"):
        core.PackedPrompts(**{**buffers, "lengths": buffers["lengths"].astype(np.int64)})
    with pytest.raises(TypeError, match="incompatible constructor arguments"):
        core.PackedPrompts(**{**buffers, "text_ids": buffers["text_ids"].T})
    buffers["positions"].flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        core.pack_prompts(arrays([[1], [2]]), 3, 2, out=core.PackedPrompts(**buffers))


@pytest.mark.parametrize("shape", [(0, 3, 0, 2), (2, 0, 0, 2), (2, 3, -1, 2), (2, 3, 0, -1)])
def test_numbers_that_are_no_shape_are_refused(shape: tuple[int, int, int, int]):
    rows, num_image_tokens, prefix_length, width = shape
    with pytest.raises(ValueError, match=f"no prefill has {rows} rows of {num_image_tokens} image tokens"):
        core.pack_prompts([], num_image_tokens, width, prefix_length=prefix_length, rows=rows)


def test_ids_of_a_wider_type_are_refused():
    with pytest.raises(TypeError, match="incompatible function arguments"):
        core.pack_rows([np.array([2**40])])
    with pytest.raises(ValueError, match="one dimension"):
        core.pack_rows([np.zeros((2, 2), np.int32)])


def test_the_gil_is_released(assert_releases_gil: Callable[..., None]):
    row = np.zeros(1_000_000, np.int32)
    assert_releases_gil(lambda: core.pack_rows([row]))
    assert_releases_gil(lambda: core.pack_prompts([], 1_000_000, 0, rows=1))
