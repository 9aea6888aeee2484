import resource

import pytest
from PIL import Image
from support.pictures import blank_png, encode, natural, with_orientation

from recap_fast.decode.gate import Header, RefusedImageError, open_image, take_over_pillow_checks
from recap_fast.defaults import MAX_IMAGE_PIXELS


@pytest.fixture(autouse=True)
def _gate():
    take_over_pillow_checks()


def refusal(data, limit=MAX_IMAGE_PIXELS):
    with pytest.raises(RefusedImageError) as caught:
        open_image(data, limit)
    return caught.value.outcome


def test_the_header_says_what_the_image_is():
    image, header, _ = open_image(encode(natural(60, 40).convert("L"), "JPEG"), 10**6)
    assert header == Header("JPEG", "L", 60, 40)
    assert image.size == (60, 40)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_sizes_are_those_of_the_image_as_displayed(image_format):
    data = encode(natural(60, 40), image_format, exif=with_orientation(6))
    header = open_image(data, 10**6)[1]
    assert (header.width, header.height) == (40, 60)


BROKEN_EXIF = [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff junk"]


@pytest.mark.parametrize("exif", [*map(with_orientation, (0, 9, 65535)), *BROKEN_EXIF])
def test_an_orientation_out_of_range_or_broken_is_upright(exif):
    assert open_image(encode(natural(60, 40), "JPEG", exif=exif), 10**6).header.orientation == 1


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        (b"", "empty_image", "The image has no bytes."),
        (b"<html>404</html>", "not_an_image", "The bytes are HTML, not an image."),
        (b'{"a": 1}', "not_an_image", "The bytes are JSON, not an image."),
        (b"8BPS\0\1", "unsupported", "PSD images are not decoded."),
        (encode(natural(60, 40), "JPEG")[:100], "truncated", "The JPEG data ends before the image does."),
        (encode(natural(60, 40), "PNG")[:20], "truncated", "The PNG data ends before the image does."),
        (encode(natural(60, 40), "WEBP")[:40], "truncated", "The WebP data ends before the image does."),
        (b"BM" + bytes(100), "corrupt", "The BMP data is damaged: Unsupported BMP header type (0)."),
        (
            b"II*\0\xff\xff",
            "corrupt",
            "The TIFF data is damaged: it is not what its first bytes say.",
        ),
    ],
)
def test_what_cannot_be_opened_is_refused_with_a_reason(data, status, error):
    outcome = refusal(data)
    assert (outcome.status, outcome.error, outcome.width) == (status, error, None)


@pytest.mark.parametrize(
    ("size", "status", "error"),
    [
        ((1, 1), "too_small", "1 x 1 pixels: a side under 2 pixels shows nothing."),
        ((30, 1), "too_small", "30 x 1 pixels: a side under 2 pixels shows nothing."),
        ((204, 4), "extreme_aspect", "204 x 4 pixels: one side is more than 50 times the other."),
        ((4, 204), "extreme_aspect", "4 x 204 pixels: one side is more than 50 times the other."),
        ((41, 40), "too_large", "41 x 40 pixels are more than the 1600 that --max-image-pixels allows."),
    ],
)
@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_sizes_that_show_nothing_or_cost_too_much_are_refused(size, status, error, image_format):
    data = encode(Image.new("RGB", size), image_format)
    limit = 1600 if status == "too_large" else 10**6
    outcome = refusal(data, limit)
    assert (outcome.status, outcome.error, (outcome.width, outcome.height)) == (status, error, size)


def test_the_limits_are_inclusive():
    assert open_image(encode(Image.new("RGB", (200, 4)), "PNG"), 800)[1].width == 200
    assert open_image(encode(Image.new("RGB", (2, 2)), "PNG"), 4)[1].width == 2


def test_a_huge_png_is_refused_without_memory():
    data = blank_png(30_000, 30_000)
    assert len(data) < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(data).status == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # kB


def test_a_larger_limit_than_pillows_own_is_obeyed():
    assert open_image(blank_png(20_000, 20_000), 500_000_000)[1].width == 20_000


def test_every_pillow_warning_is_kept_in(recwarn):
    data = encode(natural(60, 40).convert("P"), "PNG", transparency=b"\0\1\2")
    open_image(data, 10**6)[0].convert("RGB")
    assert [str(w.message)[:30] for w in recwarn] == ["Palette images with Transparen"]
    take_over_pillow_checks()
    open_image(data, 10**6)[0].convert("RGB")
    assert len(recwarn) == 1
