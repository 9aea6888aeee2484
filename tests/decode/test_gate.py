import resource
import struct
import sys
import zlib

import pytest
from PIL import Image
from support.pictures import blank_png, encode, natural, with_orientation

from recap_fast.decode.gate import Header, RefusedImageError, open_image, take_over_pillow_checks
from recap_fast.decode.pillow import decode_rgb
from recap_fast.defaults import MAX_IMAGE_PIXELS


def replaced(data, old, new):
    """The bytes with the one entry of a TIFF's directory, or segment of a JPEG, replaced."""
    assert data.count(old) == 1
    return data.replace(old, new)


def entry(tag, *values):
    return struct.pack(f"<HHI{len(values)}H", tag, 3, len(values), *values)


TIFF_GREY_ALPHA = replaced(encode(Image.new("LA", (9, 9)), "TIFF"), entry(258, 8, 8), entry(258, 16, 16))
TIFF_WEBP = replaced(encode(Image.new("RGB", (9, 9)), "TIFF"), entry(259, 1), entry(259, 50001))
JPEG_12_BITS = replaced(encode(Image.new("RGB", (9, 9)), "JPEG"), b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c")


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
            b"II*\0\x08\0\0\0\xff\xff",
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


@pytest.mark.parametrize(
    ("marker", "process"),
    [(0xC3, "lossless"), (0xCB, "lossless"), (0xC5, "hierarchical"), (0xCE, "hierarchical"), (0xF7, "JPEG-LS")],
)
def test_jpegs_of_another_process_are_unsupported(marker, process):
    data = encode(natural(60, 40), "JPEG").replace(b"\xff\xc0", bytes([0xFF, marker]), 1)
    with pytest.raises(RefusedImageError, match=f"This kind of JPEG is not decoded: its coding is {process}") as caught:
        decode_rgb(data, 10**6)
    assert caught.value.outcome.status == "unsupported"


def test_the_limits_are_inclusive():
    assert open_image(encode(Image.new("RGB", (200, 4)), "PNG"), 800)[1].width == 200
    assert open_image(encode(Image.new("RGB", (2, 2)), "PNG"), 4)[1].width == 2


def test_a_huge_png_is_refused_without_memory():
    data = blank_png(30_000, 30_000)
    assert len(data) < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(data).status == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # kB


def progressive(num_scans):
    """A progressive JPEG of 8000 x 8000 that declares so many scans, all but the first without data."""
    data = encode(Image.new("L", (8000, 8000)), "JPEG", progressive=True)
    scan = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    return data[:scan] + b"\xff\xda\0\x08\1\1\0\1\5\2\0" * (num_scans - 1) + b"\xff\xd9"


def test_scans_times_pixels_of_a_jpeg_are_bounded():
    assert open_image(progressive(100), 10**9).header.width == 8000
    outcome = refusal(progressive(200), 10**9)
    assert (outcome.status, outcome.width) == ("too_large", 8000)
    assert outcome.error == "8000 x 8000 pixels in 200 scans would take minutes to decode."


def declaring(image_format, width, height, **options):
    """A small image whose header declares another size."""
    data = encode(Image.new("L" if image_format == "PNG" else "RGB", (16, 16), "red"), image_format, **options)
    if image_format == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
    if image_format == "PNG":
        header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    return data[:26] + struct.pack("<HH", width, height) + data[30:]


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_what_the_data_cannot_hold_is_truncated_before_it_is_decoded(image_format):
    outcome = refusal(declaring(image_format, 9000, 8000), 10**9)
    assert (outcome.status, outcome.width, outcome.height) == ("truncated", 9000, 8000)
    assert outcome.error.endswith("data ends before the image does: there is too little of it for 9000 x 8000 pixels.")


def test_more_pixels_than_pillow_takes_need_bytes():
    data = encode(Image.new("RGB", (16, 16)), "WEBP", lossless=True)
    size = (12_000 - 1) | (12_000 - 1) << 14
    data = data[:21] + ((int.from_bytes(data[21:25], "little") & ~0xFFFFFFF) | size).to_bytes(4, "little") + data[25:]
    outcome = refusal(data, 10**9)
    assert (outcome.status, outcome.width) == ("too_large", 12_000)
    assert outcome.error == f"12000 x 12000 pixels in {len(data)} bytes are more than 10000 a byte."


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "GIF", "TIFF", "AVIF", "JPEG", "JPEG2000", "BMP"])
@pytest.mark.parametrize("options", [{}, {"lossless": True, "quality": 1}, {"compression": "tiff_adobe_deflate"}])
def test_one_color_compresses_as_well_as_the_format_can(image_format, options):
    options = options if (image_format == "TIFF") == ("compression" in options) else {}
    assert (
        open_image(encode(Image.new("RGB", (4000, 4000), "white"), image_format, **options), 10**9).header.width == 4000
    )


@pytest.mark.parametrize(
    "data",
    [
        declaring("PNG", 0xFFFFFFF0, 1000),
        encode(Image.new("RGB", (9, 9)), "BMP")[:21] + b"\x80" + encode(Image.new("RGB", (9, 9)), "BMP")[22:],
    ],
)
def test_a_size_that_no_row_can_hold_is_in_the_sentence_alone(data):
    outcome = refusal(data, 2**70)
    assert (outcome.status, outcome.width, outcome.height) == ("too_large", None, None)
    assert "pixels: no image is that large." in outcome.error


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (TIFF_GREY_ALPHA, "This kind of TIFF is not decoded: unknown pixel mode."),
        (TIFF_WEBP, "This kind of TIFF is not decoded: its compression is WebP."),
        (JPEG_12_BITS, "This kind of JPEG is not decoded: cannot handle 12-bit layers."),
    ],
)
def test_what_pillow_cannot_do_is_unsupported(data, error):
    with pytest.raises(RefusedImageError) as caught:
        decode_rgb(data, 10**6)
    assert (caught.value.outcome.status, caught.value.outcome.error) == ("unsupported", error)


@pytest.mark.parametrize(("name", "package"), [("pillow_heif", "pillow-heif"), ("pillow_jxl", "pillow-jxl-plugin")])
def test_without_its_plugin_a_format_says_how_to_install_it(monkeypatch, name, package):
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" if package == "pillow-heif" else b"\xff\x0a\x7f\0\0\0\0"
    outcome = refusal(data)
    assert outcome.status == "unsupported"
    assert f"images need a plugin: pip install {package} (" in outcome.error


def test_a_larger_limit_than_pillows_own_is_obeyed():
    assert open_image(blank_png(20_000, 20_000), 500_000_000)[1].width == 20_000


def test_every_pillow_warning_is_kept_in(recwarn):
    data = encode(natural(60, 40).convert("P"), "PNG", transparency=b"\0\1\2")
    open_image(data, 10**6)[0].convert("RGB")
    assert [str(w.message)[:30] for w in recwarn] == ["Palette images with Transparen"]
    take_over_pillow_checks()
    open_image(data, 10**6)[0].convert("RGB")
    assert len(recwarn) == 1
