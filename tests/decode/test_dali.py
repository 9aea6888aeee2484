"""DALI against the Pillow decoder. On the CPU the decoded pixels are equal; the resizes differ by a few levels."""

import dataclasses
import importlib
import logging
from contextlib import closing
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from support.pictures import CROP, PAD, STD, damaged_png, drawn, encode, natural, noise, with_orientation

from recap_fast.decode.picture import picture_of
from recap_fast.decode.pillow import PillowDecoder
from recap_fast.records import Preprocess

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
dali = importlib.import_module("recap_fast.decode.dali")  # an error of its own is no reason to skip

LIMIT = 10**8
SIZES = [(512, 384), (384, 512), (337, 501), (1023, 333), (200, 131), (336, 336), (97, 300), (641, 640)]


def make(preprocess):
    return dali.DaliDecoder(preprocess, max_image_pixels=LIMIT, num_threads=1, device_id=None)


def make_slow(preprocess):
    return PillowDecoder(preprocess, max_image_pixels=LIMIT, num_threads=1)


STRETCH = Preprocess(224, "stretch", STD, STD, "bilinear")
LANCZOS = Preprocess(224, "stretch", STD, STD, "lanczos")


@pytest.fixture(params=[PAD, CROP, STRETCH, LANCZOS], ids=["pad", "crop", "stretch", "lanczos"])
def decoders(request):
    with closing(make(request.param)) as fast, closing(make_slow(request.param)) as slow:
        yield fast, slow


@pytest.fixture
def decoder():
    with closing(make(PAD)) as decoder:
        yield decoder


def distance(fast, slow, data):
    """The largest and the mean difference in levels, and that all went well, by DALI alone."""
    first, second = fast.decode(data), slow.decode(data)
    assert first.outcomes == second.outcomes
    assert {outcome.status for outcome in first.outcomes} == {"ok"}
    difference = np.abs(first.pixels.astype(int) - second.pixels)
    return difference.max(), difference.mean()


@pytest.mark.parametrize(("kind", "largest", "mean"), [("natural", 4, 0.17), ("drawn", 6, 0.03)])
def test_pixels_are_those_of_pillow_but_for_rounding(decoders, kind, largest, mean):
    pictures = [natural(*size, seed=i) for i, size in enumerate(SIZES)] if kind == "natural" else map(drawn, range(12))
    measured = distance(*decoders, [encode(p, "JPEG", quality=90) for p in pictures])
    assert measured[0] <= largest
    assert measured[1] <= mean
    assert decoders[0].num_fallbacks == 0


def test_geometry_is_truncated_as_in_the_reference():
    """337 x 501 becomes 336 x 499; DALI's own `resize_shorter` makes 500 of it: 35 levels off on average."""
    assert distance(make(CROP), make_slow(CROP), [encode(noise(337, 501), "PNG")])[1] < 0.5


COMMON = {
    "progressive": encode(natural(400, 300), "JPEG", progressive=True),
    "grey_jpeg": encode(natural(400, 300).convert("L"), "JPEG"),
    "rgb_jpeg": encode(natural(400, 300), "JPEG", keep_rgb=True),
    "png": encode(natural(400, 300), "PNG"),
    "grey_png": encode(natural(400, 300).convert("L"), "PNG"),
    "palette_png": encode(natural(400, 300).convert("P"), "PNG", transparency=bytes(range(200))),
    "rgba_png": encode(natural(400, 300).convert("RGBA"), "PNG"),
    "la_png": encode(natural(400, 300).convert("LA"), "PNG"),
    "webp": encode(natural(400, 300), "WEBP"),
    "lossless_webp": encode(natural(400, 300), "WEBP", lossless=True),
}


@pytest.mark.parametrize("data", COMMON.values(), ids=COMMON)
def test_the_common_kinds_need_no_fallback(decoders, data):
    largest, mean = distance(*decoders, [data])
    assert mean < 0.3
    assert largest <= 9
    assert decoders[0].num_fallbacks == 0


OTHERS = {
    "cmyk": encode(natural(400, 300).convert("CMYK"), "JPEG"),
    "16_bit": encode(Image.fromarray(np.linspace(0, 65535, 120_000).astype(np.uint16).reshape(300, 400)), "PNG"),
    "1_bit": encode(natural(400, 300).convert("1"), "PNG"),
    "png_exif": encode(natural(400, 300), "PNG", exif=with_orientation(6)),
    "webp_exif": encode(natural(400, 300), "WEBP", exif=with_orientation(6)),
    "animated": encode(natural(400, 300), "WEBP", save_all=True, append_images=[noise(400, 300)]),
    "gif": encode(natural(400, 300), "GIF"),
    "avif": encode(natural(400, 300), "AVIF"),
    "bmp": encode(natural(400, 300), "BMP"),
    "tiff": encode(natural(400, 300), "TIFF"),
    "jpeg2000": encode(natural(400, 300), "JPEG2000"),
    "no_end": encode(natural(400, 300), "PNG")[:-12],
    "panorama": encode(natural(12_000, 300), "JPEG"),
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_the_other_kinds_are_pillows(decoder, data):
    assert distance(decoder, make_slow(PAD), [data]) == (0, 0)
    assert decoder.num_fallbacks == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_jpegs_is_undone(decoders, orientation):
    data = [encode(natural(501, 337), "JPEG", exif=with_orientation(orientation))]
    assert distance(*decoders, data)[1] < 0.2
    assert decoders[0].num_fallbacks == 0
    outcome = decoders[0].decode(data).outcomes[0]
    assert (outcome.width, outcome.height) == ((501, 337) if orientation < 5 else (337, 501))


EXIF_OF_MANY_TAGS = b"Exif\0\0MM\0*\0\0\0\x08\x7f\x02\x01\x12\0\3\0\0\0\1\0\6\0\0"


def test_dali_gets_the_orientation_and_nothing_else_of_exif(decoders, monkeypatch):
    """Its own parser reads as many tags as are declared, here 32,514, wherever the memory ends."""
    seen = []
    run = decoders[0]._run_pipeline
    monkeypatch.setattr(decoders[0], "_run_pipeline", lambda data, headers: seen.extend(data) or run(data, headers))
    data = encode(natural(501, 337), "JPEG", exif=EXIF_OF_MANY_TAGS)
    assert distance(*decoders, [data])[1] < 0.2
    assert b"\x7f\x02\x01\x12" in data
    assert b"\x7f\x02\x01\x12" not in seen[0]
    assert decoders[0].decode([data]).outcomes[0].width == 337


def test_with_a_background_what_is_transparent_is_pillows():
    options = {"max_image_pixels": LIMIT, "num_threads": 1, "background": (0, 0, 255)}
    fast, slow = dali.DaliDecoder(PAD, device_id=None, **options), PillowDecoder(PAD, **options)
    data = [COMMON[kind] for kind in ("rgba_png", "la_png", "palette_png", "png", "progressive")]
    assert distance(fast, slow, data)[1] < 0.3
    assert fast.num_fallbacks == 3


def test_only_pillow_is_only_pillow(decoder, monkeypatch):
    monkeypatch.setattr(decoder, "_run", None)
    data = [COMMON["png"], b"<html>", COMMON["progressive"]]
    batch, expected = decoder.decode(data, only_pillow=True), make_slow(PAD).decode(data)
    np.testing.assert_array_equal(batch.pixels, expected.pixels)
    assert batch.outcomes == expected.outcomes


def test_a_bad_image_leaves_the_other_31_as_they_are(decoder, caplog):
    good = [encode(natural(300 + i, 200, seed=i), "JPEG") for i in range(31)]
    alone = np.concatenate([decoder.decode([data]).pixels for data in good])
    with caplog.at_level(logging.DEBUG, "recap_fast"):
        batch = decoder.decode([*good[:17], damaged_png(), *good[17:]])
    assert "DALI failed on a batch of 32" in caplog.text
    np.testing.assert_array_equal(np.delete(batch.pixels, 17, axis=0), alone)
    assert not batch.pixels[17].any()
    assert batch.outcomes[17].status == "corrupt"
    assert [o.status for i, o in enumerate(batch.outcomes) if i != 17] == ["ok"] * 31
    assert decoder.num_fallbacks == 1
    np.testing.assert_array_equal(decoder.decode(good).pixels, alone)  # and the next batch as well


def test_pixels_do_not_depend_on_the_batch(decoder):
    data = [encode(natural(300 + i, 200, seed=i % 7), "JPEG") for i in range(70)]
    together = decoder.decode(data)
    np.testing.assert_array_equal(together.pixels, np.concatenate([decoder.decode([d]).pixels for d in data]))
    assert [o.width for o in together.outcomes] == [300 + i for i in range(70)]


def test_large_images_are_spread_over_batches(decoder, monkeypatch):
    sizes = []
    run = decoder._run_pipeline
    monkeypatch.setattr(decoder, "_run_pipeline", lambda data, headers: sizes.append(len(data)) or run(data, headers))
    monkeypatch.setattr(dali, "_MAX_BATCH_PIXELS", 3 * 300 * 300)
    batch = decoder.decode([encode(natural(300, 200), "JPEG")] * 7 + [encode(natural(600, 400), "JPEG")])
    assert sizes == [3, 3, 1]
    assert decoder.num_fallbacks == 1  # the large one by itself is too much
    assert {o.status for o in batch.outcomes} == {"ok"}


def test_an_image_that_dali_reads_otherwise_is_pillows(decoder, monkeypatch):
    """The gate and DALI each read the header: where they disagree the geometry would be wrong."""
    data = encode(natural(300, 200), "JPEG", exif=with_orientation(6))
    monkeypatch.setattr(
        "recap_fast.decode.gate.picture_of", lambda *given: dataclasses.replace(picture_of(*given), orientation=1)
    )
    decoder.decode([data])
    assert decoder.num_fallbacks == 1


def test_other_sizes_and_colors_than_clips_are_obeyed():
    batch = make(Preprocess(64, "pad", (0, 0.5, 1), STD)).decode([encode(Image.new("RGB", (80, 20), "white"), "PNG")])
    assert batch.pixels.shape == (1, 3, 64, 64)
    assert batch.pixels[0, :, 0, 0].tolist() == [0, 127, 255]
    assert batch.pixels[0, :, 32, 32].tolist() == [255, 255, 255]


def test_a_batch_in_device_memory_is_the_one_in_host_memory(decoder):
    """The GPU's way, with torch's CPU device: images by DALI, by DALI one by one, by Pillow, and bad ones."""
    device_pixels = importlib.import_module("recap_fast.decode.device_pixels")
    good = [encode(natural(300 + i, 200, seed=i), "JPEG") for i in range(40)]
    data = [good[0], b"<html>", encode(natural(90, 60), "GIF"), damaged_png(), *good[1:], b""]
    expected = decoder.decode(data)
    decoder._begin = partial(device_pixels.DevicePixels, PAD.image_size, torch.device("cpu"), None)
    decoder._try_out()
    batch = decoder.decode(data)
    assert isinstance(batch.pixels, torch.Tensor)
    assert batch.outcomes == expected.outcomes
    np.testing.assert_array_equal(batch.pixels, expected.pixels)
    assert decoder.decode([]).pixels.shape == (0, 3, 336, 336)


def test_gpu_memory_is_chosen_where_dali_decodes_on_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.Stream", lambda device: f"a stream on {device}")
    begin = dali._choose_memory(336, 1)
    assert begin.args == (336, torch.device("cuda", 1), "a stream on cuda:1")
    assert dali._choose_memory(336, None)(2).finish().shape == (2, 3, 336, 336)
