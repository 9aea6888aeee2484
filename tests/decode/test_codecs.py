"""HEIC and JPEG XL: upright exactly once, whatever says how to turn them, and damaged ones are rows."""

import importlib
import io

import numpy as np
import pytest
from PIL import Image
from support.pictures import PAD, encode, natural, with_orientation

from recap_fast.decode.pillow import PillowDecoder, decode_rgb

LIMIT = 10**8
PICTURE = Image.new("RGB", (64, 40), "white")
PICTURE.paste("red", (0, 0, 32, 20))
PICTURE.paste("blue", (0, 20, 32, 40))


@pytest.fixture(scope="module")
def heif():
    return pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")


@pytest.fixture(scope="module")
def jxl():
    return pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin is not installed")


def heic(heif, image, **options):
    out = io.BytesIO()
    heif.from_pillow(image).save(out, **options)
    return out.getvalue()


def assert_upright(image, picture=PICTURE):
    assert image.size == picture.size
    difference = np.abs(np.asarray(image).astype(int) - np.asarray(picture))
    assert difference.mean() < 8


TURNED = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180, 8: Image.Transpose.ROTATE_270}


def test_a_heic_is_the_picture_in_it(heif):
    assert_upright(decode_rgb(heic(heif, PICTURE), LIMIT))


@pytest.mark.parametrize("orientation", TURNED)
def test_a_heic_that_its_own_box_turns_is_turned_once(heif, orientation):
    """As phones write them: the box and EXIF say the same, and only the box counts."""
    turned = PICTURE.transpose(TURNED[orientation])
    data = heic(heif, turned, exif=with_orientation(orientation).tobytes())
    assert b"irot" in data
    assert_upright(decode_rgb(data, LIMIT))


def test_broken_exif_of_a_heic_decides_nothing(heif):
    exif = with_orientation(1)
    exif[0x010E] = "text"
    data = heic(heif, PICTURE, exif=exif.tobytes())
    assert b"text" in data
    assert_upright(
        decode_rgb(data.replace(b"MM\0*", b"\xff\xff\xff\xff").replace(b"II*\0", b"\xff\xff\xff\xff"), LIMIT)
    )


@pytest.mark.parametrize(
    "options", [{"lossless": True}, {"use_container": True, "exif": with_orientation(6).tobytes()}]
)
def test_a_jxl_is_the_picture_in_it_and_its_exif_turns_nothing(jxl, options):
    assert_upright(decode_rgb(encode(PICTURE, "JXL", **options), LIMIT))


def test_a_jpeg_that_was_made_a_jxl_is_turned_as_the_jpeg(jxl, tmp_path):
    path = tmp_path / "turned.jpg"
    path.write_bytes(encode(PICTURE.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=with_orientation(6)))
    with Image.open(path) as image:
        assert_upright(decode_rgb(encode(image, "JXL", lossless_jpeg=True), LIMIT))


def test_damaged_ones_are_corrupt_and_size_is_checked_before_anything_is_opened(heif, jxl):
    decoder = PillowDecoder(PAD, max_image_pixels=4000, num_threads=1)
    files = [heic(heif, PICTURE), encode(PICTURE, "JXL")]
    small = [heic(heif, natural(40, 40)), encode(natural(40, 40), "JXL")]
    cut = [data[: len(data) // 2] for data in small]
    outcomes = decoder.decode([*files, *small, *cut]).outcomes
    assert [o.status for o in outcomes[:4]] == ["ok", "ok", "ok", "ok"]
    assert {o.status for o in outcomes[4:]} <= {"corrupt", "truncated"}
    limited = PillowDecoder(PAD, max_image_pixels=1000, num_threads=1)
    assert [o.status for o in limited.decode(files).outcomes] == ["too_large", "too_large"]


def test_opening_a_heic_registers_nothing_with_pillow(heif):
    decode_rgb(heic(heif, PICTURE), LIMIT)
    assert "HEIF" not in Image.OPEN
    assert importlib.import_module("recap_fast.decode.codecs").open_encoded("HEIC", heic(heif, PICTURE)).size == (
        64,
        40,
    )
