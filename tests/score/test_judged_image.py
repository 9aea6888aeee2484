"""The images that a judge gets: the same picture, in a format that every endpoint reads."""

import io

import numpy as np
import pytest
from PIL import Image
from support.judge_server import image_of
from support.pictures import drawn, encode, natural, with_orientation

from recap_fast.decode.gate import RefusedImageError
from recap_fast.score.judged_image import MAX_BYTES, JudgedImage, judged_image


def sent(data):
    """The type, and the image as another program opens it."""
    mime_type, encoded = image_of(judged_image(data).uri)
    return mime_type, Image.open(io.BytesIO(encoded))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WebP", "GIF"])
def test_common_formats_are_sent_as_they_are(image_format):
    data = encode(drawn(3), image_format)
    assert image_of(judged_image(data).uri) == (f"image/{image_format.lower()}", data)


def test_what_a_camera_wrote_beside_the_picture_is_not_sent():
    exif = Image.Exif()
    exif[0x010F] = "SECRET"
    data = encode(natural(64, 48), "JPEG", exif=exif)
    assert b"SECRET" in data
    mime_type, image = sent(data)
    assert mime_type == "image/jpeg"
    assert b"SECRET" not in image_of(judged_image(data).uri)[1]
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data))))


def test_a_turned_image_is_sent_upright():
    picture = natural(90, 60, 3)
    mime_type, image = sent(encode(picture, "JPEG", exif=with_orientation(6)))
    assert (mime_type, image.format, image.size) == ("image/jpeg", "JPEG", (60, 90))
    wanted = np.asarray(picture.transpose(Image.Transpose.ROTATE_270), np.float32)
    assert np.abs(np.asarray(image, np.float32) - wanted).mean() < 12


@pytest.mark.parametrize(
    "data",
    [
        encode(natural(70, 50), "TIFF"),
        encode(natural(70, 50), "BMP"),
        encode(natural(70, 50).convert("CMYK"), "JPEG"),
        encode(Image.fromarray(np.full((50, 70), 30000, np.uint16)), "PNG"),
        encode(drawn(1).resize((70, 50)), "GIF", save_all=True, append_images=[drawn(2).resize((70, 50))]),
        encode(drawn(1).resize((70, 50)), "WebP", save_all=True, append_images=[drawn(2).resize((70, 50))]),
    ],
    ids=["tiff", "bmp", "cmyk", "16 bits", "moving gif", "moving webp"],
)
def test_anything_else_is_sent_as_a_still_jpeg_or_without_what_moves(data):
    mime_type, image = sent(data)
    assert mime_type == f"image/{image.format.lower()}"
    assert image.mode == "RGB"
    assert image.size == (70, 50)
    assert not getattr(image, "is_animated", False)


def test_a_large_file_is_sent_small():
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8)
    data = encode(Image.fromarray(pixels), "PNG")
    assert len(data) > MAX_BYTES
    mime_type, image = sent(data)
    assert (mime_type, image.size) == ("image/jpeg", (1024, 768))


@pytest.mark.parametrize("data", [b"", b"<html>", encode(drawn(0), "JPEG")[:100]], ids=["empty", "page", "cut"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(RefusedImageError):
        judged_image(data)


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [(512, 512, 255), (1024, 1024, 765), (2048, 4096, 1105), (100, 60, 255), (640, 480, 425)],
)
def test_tokens_are_counted_as_openai_documents_it(width, height, tokens):
    """The second and third are the examples of OpenAI's guide to images."""
    assert JudgedImage("", width, height).tokens == tokens
