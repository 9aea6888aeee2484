import importlib
import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.pictures import CROP, MEAN, PAD, STD, damaged_png, drawn, encode, natural, noise, with_orientation

from recap_fast.decode import pillow
from recap_fast.decode.gate import take_over_pillow_checks
from recap_fast.decode.pillow import PillowDecoder, decode_rgb, preprocess_image, preprocess_opened
from recap_fast.records import Preprocess

LIMIT = 10**8
SIDES = st.integers(2, 150)
ODD_SIZES = [
    (512, 384),
    (384, 512),
    (337, 501),
    (1023, 333),
    (97, 300),
    (336, 336),
    (335, 337),
    (3, 5),
    (900, 9),
    (9, 900),
]


def reference(image, preprocess):
    """LLaVA's preprocessing as it is published: the whole canvas, one resize, one crop."""
    size, resample = preprocess.image_size, Image.Resampling[preprocess.resample.upper()]
    if preprocess.mode == "stretch":
        return np.asarray(image.resize((size, size), resample))
    if preprocess.mode == "pad":
        side = max(image.size)
        canvas = Image.new("RGB", (side, side), tuple(int(255 * m) for m in preprocess.mean))
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = canvas
    short, long = sorted(image.size)
    new = (size, int(size * long / short)) if image.width <= image.height else (int(size * long / short), size)
    image = image.resize(new, resample)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.fixture(autouse=True)
def _gate():
    take_over_pillow_checks()


@pytest.fixture
def decoder():
    decoder = PillowDecoder(PAD, max_image_pixels=LIMIT, num_threads=2)
    yield decoder
    decoder.close()


@pytest.mark.parametrize("preprocess", [PAD, CROP], ids=["pad", "crop"])
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_pixels_equal_those_of_transformers(size, preprocess):
    clip = importlib.import_module("transformers.models.clip.image_processing_pil_clip").CLIPImageProcessorPil
    llava = importlib.import_module("transformers.models.llava.image_processing_pil_llava").LlavaImageProcessorPil
    image = noise(*size)
    side = preprocess.image_size
    processor = (llava if preprocess is PAD else clip)(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        do_pad=preprocess is PAD,
        do_rescale=False,
        do_normalize=False,
    )
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    assert expected.dtype == np.uint8
    np.testing.assert_array_equal(preprocess_image(image, preprocess).transpose(2, 0, 1), expected)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_stretched_pixels_equal_those_of_siglips_processor(size, resample):
    siglip = importlib.import_module("transformers.models.siglip.image_processing_pil_siglip").SiglipImageProcessorPil
    processor = siglip(
        size={"height": 96, "width": 96},
        resample=Image.Resampling[resample.upper()],
        do_rescale=False,
        do_normalize=False,
    )
    image = noise(*size)
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    found = preprocess_image(image, Preprocess(96, "stretch", MEAN, STD, resample))
    np.testing.assert_array_equal(found.transpose(2, 0, 1), expected)


MODES = st.sampled_from(["pad", "crop", "stretch"])
FILTERS = st.sampled_from(["bicubic", "bilinear", "lanczos"])


@given(SIDES, SIDES, st.sampled_from([28, 112, 113]), MODES, FILTERS, st.data())
def test_pixels_equal_the_recipe_at_any_size_and_strip(width, height, size, mode, resample, data):
    image = noise(width, height)
    preprocess = Preprocess(size, mode, MEAN, STD, resample)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pillow, "_MAX_STRIP_PIXELS", data.draw(st.sampled_from([1, 1000, 1 << 24])))
        np.testing.assert_array_equal(preprocess_image(image, preprocess), reference(image, preprocess))


def test_a_long_panorama_is_padded_without_its_square(monkeypatch):
    made = []
    new = Image.new
    monkeypatch.setattr(Image, "new", lambda mode, size, *rest: made.append(size) or new(mode, size, *rest))
    for size in ((40_000, 800), (300, 8_000)):  # the squares would take 4.8 and 0.2 GB
        assert preprocess_image(new("RGB", size), PAD).shape == (336, 336, 3)
    assert max(width * height for width, height in made) <= 1 << 24


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_undone(orientation, image_format):
    upright = Image.new("RGB", (60, 40), "white")
    upright.paste("red", (0, 0, 30, 20))  # top left
    upright.paste("blue", (0, 20, 30, 40))  # bottom left
    turned = upright.transpose(TURNED[orientation]) if orientation > 1 else upright
    image = decode_rgb(encode(turned, image_format, exif=with_orientation(orientation)), LIMIT)
    assert image.size == (60, 40)
    np.testing.assert_allclose(np.asarray(image)[10, 15], (255, 0, 0), atol=12)
    np.testing.assert_allclose(np.asarray(image)[30, 15], (0, 0, 255), atol=12)
    np.testing.assert_allclose(np.asarray(image)[10, 45], (255, 255, 255), atol=12)


TURNED = {  # how a camera that writes this orientation stores an upright picture
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def test_exif_data_behind_the_pixels_of_a_png_is_found():
    data = encode(natural(60, 40), "PNG", exif=with_orientation(6))
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    moved = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert decode_rgb(moved, LIMIT).size == (40, 60)
    with Image.open(io.BytesIO(moved)) as opened:
        assert preprocess_opened(opened, PAD, LIMIT)[1].width == 40


IMAGE = natural(90, 70)
ALPHA = IMAGE.convert("RGBA")
ALPHA.putalpha(Image.linear_gradient("L").resize((90, 70)))
GREY, PALETTE, CMYK = (IMAGE.convert(mode) for mode in ("L", "P", "CMYK"))
MOVING = {"save_all": True, "append_images": [noise(90, 70)]}
KINDS = {
    "png": (IMAGE, "PNG", {}),
    "bmp": (IMAGE, "BMP", {}),
    "ppm": (IMAGE, "PPM", {}),
    "tiff": (IMAGE, "TIFF", {"compression": "tiff_lzw"}),
    "webp": (IMAGE, "WEBP", {"lossless": True}),
    "jpeg 2000": (IMAGE, "JPEG2000", {}),
    "grey png": (GREY, "PNG", {}),
    "1-bit png": (IMAGE.convert("1"), "PNG", {}),
    "palette png": (PALETTE, "PNG", {}),
    "transparent palette": (PALETTE, "PNG", {"transparency": bytes(range(200))}),
    "alpha is dropped": (ALPHA, "PNG", {}),
    "grey alpha": (ALPHA.convert("LA"), "PNG", {}),
    "cmyk tiff": (CMYK, "TIFF", {}),
    "gif": (PALETTE, "GIF", {}),
    "animated gif": (PALETTE, "GIF", {**MOVING, "append_images": [noise(90, 70).convert("P")]}),
    "animated webp": (IMAGE, "WEBP", {"lossless": True, **MOVING}),
    "animated png": (IMAGE, "PNG", MOVING),
    "lossy jpeg": (IMAGE, "JPEG", {}),
    "lossy progressive": (IMAGE, "JPEG", {"progressive": True}),
    "lossy grey": (GREY, "JPEG", {}),
    "lossy cmyk": (CMYK, "JPEG", {}),
    "lossy rgb": (IMAGE, "JPEG", {"keep_rgb": True}),
    "lossy webp": (IMAGE, "WEBP", {}),
    "lossy avif": (IMAGE, "AVIF", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_picture_in_it(kind):
    picture, image_format, options = KINDS[kind]
    is_lossy = kind.startswith("lossy")
    data = encode(picture, image_format, **({"quality": 95} if is_lossy else {}), **options)
    error = np.abs(np.asarray(decode_rgb(data, LIMIT)).astype(int) - np.asarray(picture.convert("RGB")))
    assert error.mean() < 6 if is_lossy else not error.any()


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_greys_are_scaled_not_clipped(image_format):
    grey = np.linspace(0, 65535, 90 * 70).astype(np.uint16).reshape(70, 90)
    image = decode_rgb(encode(Image.fromarray(grey), image_format), LIMIT)
    np.testing.assert_array_equal(np.asarray(image)[..., 0], np.rint(grey / 257))


def test_colors_without_a_palette_are_damaged(decoder):
    whole = encode(natural(60, 40).quantize(16), "PNG")
    start = whole.index(b"PLTE") - 4
    data = whole[:start] + whole[start + 12 + int.from_bytes(whole[start : start + 4], "big") :]
    good, bad = decoder.decode([whole, data]).outcomes
    assert good.status == "ok"
    assert (bad.status, bad.error) == ("corrupt", "The PNG data is damaged: it has no palette for its colors.")


def test_floats_without_a_range_are_unsupported(decoder):
    (outcome,) = decoder.decode([encode(Image.new("F", (20, 20)), "TIFF")]).outcomes
    assert (outcome.status, outcome.width) == ("unsupported", 20)
    assert outcome.error == "TIFF images of Pillow's mode F lack a defined range of brightness."
    (outcome,) = decoder.decode([encode(Image.new("LAB", (20, 20)), "TIFF")]).outcomes
    assert outcome.error == "TIFF images of Pillow's mode LAB lack a conversion to RGB."


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_file_cut_in_its_middle_is_truncated(decoder, image_format):
    data = encode(drawn(), image_format)
    (outcome,) = decoder.decode([data[: len(data) * 2 // 3]]).outcomes
    assert outcome.status == "truncated", outcome
    assert "ends before the image does" in outcome.error


def test_a_damaged_file_is_corrupt(decoder):
    (outcome,) = decoder.decode([damaged_png()]).outcomes
    assert (outcome.status, outcome.width, outcome.height) == ("corrupt", 90, 70)
    assert outcome.error == "The PNG data is damaged: broken data stream when reading image file."


def test_an_image_that_does_not_fit_in_memory_is_too_large(decoder, monkeypatch):
    def fail(self, *_):
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", fail)
    (outcome,) = decoder.decode([encode(IMAGE, "PNG")]).outcomes
    assert (outcome.status, outcome.error) == ("too_large", "Not enough memory for 90 x 70 pixels.")


def test_a_batch_keeps_its_order(decoder):
    pictures = [natural(80 + i, 60, seed=i) for i in range(12)]
    data = [encode(p, "PNG") for p in pictures]
    data[5] = b"<html>"
    batch = decoder.decode(data)
    assert batch.pixels.shape == (12, 3, 336, 336)
    assert batch.pixels.dtype == np.uint8
    for i, picture in enumerate(pictures):
        expected = np.zeros((336, 336, 3)) if i == 5 else reference(picture, PAD)
        np.testing.assert_array_equal(batch.pixels[i].transpose(1, 2, 0), expected)
    assert [o.status for o in batch.outcomes] == ["ok"] * 5 + ["not_an_image"] + ["ok"] * 6
    assert [o.width for o in batch.outcomes if o.width] == [80 + i for i in range(12) if i != 5]


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size_and_says_so(decoder, monkeypatch):
    data = encode(natural(901, 701), "JPEG", exif=with_orientation(6))
    (expected,) = decoder.decode([data]).pixels
    for limit, scale in ((901 * 701, 1), (901 * 701 - 1, 2), (901 * 701 // 5, 4), (9, 8)):
        monkeypatch.setattr(pillow, "FREE_PIXELS", limit)
        batch = decoder.decode([data])
        outcome = batch.outcomes[0]
        assert (outcome.status, outcome.width, outcome.height) == ("ok", 701, 901)
        assert outcome.warning == (None if scale == 1 else f"the image was decoded at 1/{scale} scale")
        difference = np.abs(batch.pixels[0].astype(int) - expected).mean()
        assert difference == 0 if scale == 1 else 0 < difference < 12


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_only_jpegs_are_reduced(decoder, monkeypatch, image_format):
    monkeypatch.setattr(pillow, "FREE_PIXELS", 100)
    (outcome,) = decoder.decode([encode(IMAGE, image_format)]).outcomes
    assert (outcome.status, outcome.warning) == ("ok", None)


BLUE = Image.new("RGB", (90, 70), "blue")
PARTS = Image.linear_gradient("L").resize((90, 70))
CLEAR = {
    "rgba": (ALPHA, "PNG", {}),
    "webp": (ALPHA, "WEBP", {"lossless": True, "exact": True}),
    "grey": (ALPHA.convert("LA"), "PNG", {}),
    "palette": (PALETTE, "PNG", {"transparency": bytes(range(256))}),
    "one color": (IMAGE, "PNG", {"transparency": IMAGE.getpixel((3, 4))}),
    "gif": (PALETTE, "GIF", {"transparency": PALETTE.getpixel((3, 4))}),
    "opaque": (IMAGE, "PNG", {}),
    "lossy": (IMAGE, "JPEG", {}),
}


@pytest.mark.parametrize("kind", CLEAR)
def test_a_background_is_seen_through_what_is_transparent(kind):
    picture, image_format, options = CLEAR[kind]
    data = encode(picture, image_format, **options)
    with Image.open(io.BytesIO(data)) as opened:
        expected = Image.alpha_composite(BLUE.convert("RGBA"), opened.convert("RGBA")).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode_rgb(data, LIMIT, (0, 0, 255))), np.asarray(expected))
    changed = np.asarray(decode_rgb(data, LIMIT)) != np.asarray(expected)
    assert changed.any() == (kind not in ("opaque", "lossy"))


def test_one_clear_grey_of_16_bits_shows_the_background():
    grey = Image.fromarray(np.array([[0, 4000], [65535, 4001]], np.uint16))
    image = decode_rgb(encode(grey, "PNG", transparency=4000), LIMIT, (0, 0, 255))
    assert np.asarray(image).tolist() == [[[0] * 3, [0, 0, 255]], [[255] * 3, [16] * 3]]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_white_may_be_zero_in_a_tiff(order, bits, white_is_zero):
    grey = np.arange(90 * 70).reshape(70, 90) % 256
    stored = (255 - grey if white_is_zero else grey) * (257 if bits == 16 else 1)
    data = stored.astype(f"{order}u{bits // 8}").tobytes()
    tags = [(256, 90), (257, 70), (258, bits), (259, 1), (262, 1 - white_is_zero), (273, 8), (277, 1), (278, 70)]
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    entries += struct.pack(f"{order}HHII", 279, 4, 1, len(data))
    header = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(data))
    tiff = header + data + struct.pack(f"{order}H", len(tags) + 1) + entries + bytes(4)
    np.testing.assert_array_equal(np.asarray(decode_rgb(tiff, LIMIT))[..., 0], grey)
