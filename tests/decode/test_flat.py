import io
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from support.examples import share

from recap_fast.decode.device_pixels import DevicePixels
from recap_fast.decode.flat import MAX_SPREAD, mark_flat
from recap_fast.decode.geometry import content_window
from recap_fast.decode.pillow import PillowDecoder
from recap_fast.decode.pixels import look
from recap_fast.records import ImageOutcome, Preprocess

PAD = Preprocess(image_size=84, mode="pad", mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
CROP = Preprocess(image_size=84, mode="crop", mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
STRETCH = replace(CROP, mode="stretch")
BILINEAR, LANCZOS = replace(PAD, resample="bilinear"), replace(PAD, resample="lanczos")
SIZES = [(84, 84), (640, 480), (480, 640), (1000, 101), (400, 2500), (20, 30), (13, 7)]


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def is_flat(*images: bytes, preprocess: Preprocess = PAD) -> list[bool]:
    decoder = PillowDecoder(preprocess, max_image_pixels=1 << 24, num_threads=1)
    try:
        return [outcome.is_flat for outcome in decoder.decode(images).outcomes]
    finally:
        decoder.close()


@pytest.mark.parametrize("preprocess", [PAD, BILINEAR, CROP, STRETCH], ids=lambda each: f"{each.mode}-{each.resample}")
@pytest.mark.parametrize("size", SIZES)
def test_one_color_is_flat_whatever_its_size_and_what_pads_it(size, preprocess):
    images = [Image.new("RGB", size, color) for color in ("white", "black", "#c83214", "#7a756a")]
    assert is_flat(*map(encoded, images), preprocess=preprocess) == [True] * 4
    if max(size) > 84:
        assert is_flat(*(encoded(each, "JPEG", quality=30) for each in images), preprocess=preprocess) == [True] * 4


@pytest.mark.parametrize("size", [(84, 84), (640, 480), (480, 640), (20, 30)])
def test_a_filter_that_reaches_farther_leaves_a_smaller_window(size):
    windows = [content_window(*size, each) for each in (BILINEAR, PAD, LANCZOS)]
    areas = [window.width * window.height for window in windows]
    assert areas == sorted(areas, reverse=True)
    assert len(set(areas)) == (1 if size == (84, 84) else 3)
    assert is_flat(encoded(Image.new("RGB", size, "white")), preprocess=LANCZOS) == [True]


@pytest.mark.parametrize("size", SIZES)
def test_a_small_mark_makes_an_image_not_flat(size):
    width, height = size
    image = Image.new("RGB", size, "white")
    thick = max(2, max(size) // 60)
    left, top = width * 2 // 3 - thick, height // 2 - thick // 2
    ImageDraw.Draw(image).rectangle((left, top, left + thick, top + thick), fill="black")
    assert is_flat(encoded(image)) == [False]


def test_without_padding_the_whole_square_is_looked_at():
    image = Image.new("RGB", (640, 320), "white")
    image.paste("black", (300, 0, 340, 8))
    assert is_flat(encoded(image), preprocess=STRETCH) == is_flat(encoded(image), preprocess=CROP) == [False]


def test_the_noise_of_jpeg_is_no_picture_and_a_faint_slope_is_one():
    image = Image.new("RGB", (640, 480), "#c83214")
    for quality in (90, 40, 75, 30, 60):
        image = Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality))).convert("RGB")
    slope = np.linspace(100, 100 + 2 * MAX_SPREAD, 640).astype(np.uint8)
    faint = Image.fromarray(np.tile(slope[None, :, None], (480, 1, 3)))
    assert is_flat(encoded(image), encoded(faint)) == [True, False]


def test_images_that_failed_or_are_too_narrow_to_tell_are_not_flat():
    assert is_flat(b"no image", encoded(Image.new("RGB", (84 * 45, 84)))) == [False, False]
    assert content_window(84 * 45, 84, PAD).height == 0


def test_no_images_are_no_matter():
    assert is_flat() == []


@share(2)
@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([14, 84, 336]))
def test_the_window_lies_within_the_image(width, height, size):
    window = content_window(width, height, Preprocess(image_size=size, mode="pad", mean=PAD.mean, std=PAD.std))
    side = max(width, height)
    for first, length, whole in ((window.left, window.width, width), (window.top, window.height, height)):
        if length:
            start = (side - whole) // 2
            assert start * size <= first * side
            assert (first + length) * side <= (start + whole) * size


@given(st.data())
def test_flat_is_what_varies_little_in_every_channel_over_the_window(data):
    """Against a slow version, for the pixels as NumPy has them and as torch has them."""
    sizes = data.draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=5))
    pixels = np.full((len(sizes), 3, 84, 84), 7, np.uint8)
    expected = []
    for image, size in zip(pixels, sizes, strict=True):
        left, top, width, height = content_window(*size, PAD)
        inside = image[:, top : top + height, left : left + width]
        inside[:] = 100
        for _ in range(data.draw(st.integers(0, 2))):
            place = [data.draw(st.integers(0, length - 1)) for length in inside.shape]
            inside[tuple(place)] = 100 + data.draw(st.sampled_from([1, MAX_SPREAD, MAX_SPREAD + 1, 100]))
        expected.append(bool((np.ptp(inside, axis=(1, 2)) <= MAX_SPREAD).all()))
    outcomes = [ImageOutcome(*size) for size in sizes]
    on_device = DevicePixels(84, torch.device("cpu"), None, len(sizes))
    on_device.put_host(list(range(len(sizes))), pixels)
    for way in (partial(look, pixels), on_device.look):
        assert [outcome.is_flat for outcome in mark_flat(outcomes, PAD, way)] == expected
