import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.pictures import encode, with_orientation

from recap_fast.decode.jxl import jxl_size

SIZES = [
    (60, 40),
    (256, 256),
    (1000, 37),
    (37, 1000),
    (1600, 900),
    (5000, 4000),
    (8, 8),
    (64, 32),
    (9, 300),
    (20_000, 3),
]
EXIF = with_orientation(6).tobytes()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_size_is_read_without_opening(size):
    importlib.import_module("pillow_jxl")
    image = Image.new("RGB", size)
    assert jxl_size(encode(image, "JXL", effort=1)) == size
    assert jxl_size(encode(image, "JXL", effort=1, use_container=True, exif=EXIF)) == size


@given(st.binary(max_size=60), st.sampled_from([b"", b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\1jxlp\0\0"]))
def test_any_bytes_have_a_size_or_none(data, start):
    size = jxl_size(start + data)
    assert size is None or (size[0] >= 0 and size[1] >= 1)
