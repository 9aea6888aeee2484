"""DALI on a GPU against the same pipeline on the CPU, and its pixels where the engine wants them.

The levels are bounds set before any GPU had run it: nvJPEG has an IDCT and a chroma upsampling of its own.
"""

import importlib

import numpy as np
import pytest
import torch
from support.pictures import CROP, PAD, damaged_png, drawn, encode, natural, with_orientation

pytestmark = pytest.mark.needs_cuda

LIMIT = 10**8
PICTURES = [natural(512, 384, 1), natural(337, 501, 2), natural(97, 300, 3), natural(1023, 333, 4), drawn(5)]


@pytest.fixture(params=[PAD, CROP], ids=["pad", "crop"])
def decoders(request):
    """On the GPU, and on the CPU."""
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    dali = importlib.import_module("recap_fast.decode.dali")
    made = [dali.DaliDecoder(request.param, max_image_pixels=LIMIT, num_threads=2, device_id=i) for i in (0, None)]
    yield made
    for decoder in made:
        decoder.close()


def difference(decoders, data):
    """Levels between the two, image by image; outcomes and fallbacks are the same."""
    on_gpu, on_cpu = (decoder.decode(data) for decoder in decoders)
    assert on_gpu.outcomes == on_cpu.outcomes
    assert decoders[0].num_fallbacks == decoders[1].num_fallbacks
    assert (on_gpu.pixels.device, on_gpu.pixels.dtype) == (torch.device("cuda", 0), torch.uint8)
    return np.abs(on_gpu.pixels.cpu().numpy().astype(int) - on_cpu.pixels)


@pytest.mark.parametrize(
    ("options", "mean", "largest"),
    [
        ({"image_format": "PNG"}, 0.1, 2),
        ({"image_format": "JPEG", "quality": 90, "subsampling": 0}, 0.6, 12),
        ({"image_format": "JPEG", "quality": 90}, 1.0, 48),
        ({"image_format": "JPEG", "quality": 90, "progressive": True}, 1.0, 48),
        ({"image_format": "WEBP"}, 0.1, 2),
    ],
    ids=["png", "jpeg_444", "jpeg_420", "progressive", "webp"],
)
def test_pixels_are_those_of_the_cpu_but_for_rounding(decoders, options, mean, largest):
    levels = difference(decoders, [encode(picture, **options) for picture in PICTURES])
    assert levels.mean() <= mean
    assert levels.max() <= largest
    assert decoders[0].num_fallbacks == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(decoders, orientation):
    assert difference(decoders, [encode(natural(501, 337), "JPEG", exif=with_orientation(orientation))]).mean() <= 1.0


def test_bad_images_leave_zeros_and_pillows_images_are_uploaded(decoders):
    gif = encode(natural(90, 60), "GIF")
    batch = decoders[0].decode([b"", encode(natural(300, 200), "JPEG"), damaged_png(), gif, b"<html>"])
    assert [o.status for o in batch.outcomes] == ["empty_image", "ok", "corrupt", "ok", "not_an_image"]
    assert [bool(image.any()) for image in batch.pixels] == [False, True, False, True, False]
    np.testing.assert_array_equal(batch.pixels[3].cpu(), decoders[1].decode([gif]).pixels[0])


def test_pixels_do_not_depend_on_the_batch(decoders):
    data = [encode(natural(300 + i, 200, seed=i % 7), "JPEG") for i in range(70)]
    together = decoders[0].decode(data).pixels
    assert torch.equal(together, torch.cat([decoders[0].decode([d]).pixels for d in data]))


def test_a_finished_batch_is_complete_for_every_stream_and_stays_as_it_is(decoders):
    data = [encode(natural(512, 384, seed=i), "JPEG") for i in range(32)]
    first = decoders[0].decode(data).pixels
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # waits for nothing
        copy = first.clone()
    decoders[0].decode(data[::-1])
    stream.synchronize()
    assert torch.equal(copy, first)
    assert torch.equal(decoders[0].decode(data).pixels, first)
