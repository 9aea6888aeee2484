"""What came with a picture decides nothing: the pixels of a file with it are those of the file without it."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.pictures import encode, natural, noise, with_orientation

from recap_fast.decode.gate import RefusedImageError, take_over_pillow_checks
from recap_fast.decode.picture import picture_of
from recap_fast.decode.pillow import decode_rgb
from recap_fast.decode.png import clean_png
from recap_fast.decode.tiff import clean_tiff
from recap_fast.decode.webp import clean_webp

IMAGE = natural(60, 40)
ALPHA = IMAGE.convert("RGBA")
ALPHA.putalpha(Image.linear_gradient("L").resize((60, 40)))
EXIF = with_orientation(6)
LIMIT = 10**8


@pytest.fixture(autouse=True)
def _gate():
    take_over_pillow_checks()


def pixels(data):
    return np.asarray(decode_rgb(data, LIMIT))


def chunk(kind, content, crc=None):
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


PNGS = {mode: encode(IMAGE.convert(mode), "PNG") for mode in ("RGB", "P", "L", "1", "LA")}
PNGS["clear palette"] = encode(IMAGE.convert("P"), "PNG", transparency=bytes(range(200)))
ANCILLARY = {
    "a huge text": chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(70 << 20))),
    "a text of the wrong compression": chunk(b"zTXt", b"key\0\7x"),
    "many texts": chunk(b"tEXt", b"key\0" + b"x" * (1 << 20)) * 70,
    "an empty gamma": chunk(b"gAMA", b""),
    "a short chromaticity": chunk(b"cHRM", b"12"),
    "an empty rendering intent": chunk(b"sRGB", b""),
    "a short resolution": chunk(b"pHYs", b"1"),
    "a wrong checksum": chunk(b"tEXt", b"key\0value", 5),
    "a profile of the wrong checksum": chunk(b"iCCP", b"name\0\0" + zlib.compress(b"x"), 5),
    "a huge profile": chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(9 << 20))),
    "a profile that is none": chunk(b"iCCP", b"name"),
    "broken EXIF": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "EXIF of the wrong checksum": chunk(b"eXIf", EXIF.tobytes()[6:], 5),
    "animation": chunk(b"acTL", b"\0\0\0\5\0\0\0\0"),
    "a short frame": chunk(b"fcTL", b"\0"),
    "frames out of order": chunk(b"acTL", bytes(7) + b"\2") + chunk(b"fcTL", b"\0\0\0\7" + bytes(22)),
    "a length that leads nowhere": b"\xff\xff\xff\xfftEXtkey\0value",
    "a length that is too small": struct.pack(">I", 3) + chunk(b"tEXt", b"key\0value")[4:],
    "junk": b"\0\1\2\3junk",
    "a wrong transparency": chunk(b"tRNS", b"\0"),
    "transparency of the wrong checksum": chunk(b"tRNS", bytes(6), 5),
}


@pytest.mark.parametrize("what", ANCILLARY)
@pytest.mark.parametrize("mode", PNGS)
@pytest.mark.parametrize("where", ["before", "behind"])
def test_no_ancillary_chunk_of_a_png_decides_about_its_pixels(what, mode, where):
    data = PNGS[mode]
    at = data.index(b"IDAT") - 4 if where == "before" else data.index(b"IEND") - 4
    np.testing.assert_array_equal(pixels(data[:at] + ANCILLARY[what] + data[at:]), pixels(data))


@pytest.mark.parametrize("at", [0, 1])
def test_a_text_between_the_pixels_of_a_png_is_passed_over(at):
    data = PNGS["RGB"]
    start = data.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", data, start)
    content = data[start + 8 : start + 8 + length]
    halves = chunk(b"IDAT", content[:500]) + chunk(b"tEXt", b"k\0v") * at + chunk(b"IDAT", content[500:])
    split = data[:start] + halves + data[start + 12 + length :]
    np.testing.assert_array_equal(pixels(split), pixels(data))


@pytest.mark.parametrize("mode", [mode for mode in PNGS if mode != "1"])
def test_a_png_that_is_whole_is_well_formed_and_one_that_is_not_is_not(mode):
    data = PNGS[mode]
    assert clean_png(data).well_formed
    assert clean_png(data).data == data or mode in ("P", "clear palette")
    header = data.index(b"IHDR")
    for at, value in ((header + 12, 7), (header + 13, 5), (header + 14, 1), (header + 15, 1), (header + 16, 2)):
        damaged = bytearray(data)
        damaged[at] = value
        damaged[header + 17 : header + 21] = struct.pack(">I", zlib.crc32(damaged[header : header + 17]))
        assert not clean_png(bytes(damaged)).well_formed
    assert not clean_png(data[:-1]).well_formed
    assert not clean_png(data[:33] + data[8:33] + data[33:]).well_formed  # two headers


def test_a_search_for_the_next_chunk_ends():
    """Each of 100,000 words could begin a chunk that reaches to the end of the file."""
    words = b"".join(struct.pack(">I", 1_000_000 - 8 * i) + b"IDAT" for i in range(100_000))
    data = PNGS["RGB"][:33] + b"\xff\xff\xff\xfftEXt" + words + bytes(1_000_000)
    assert not clean_png(data).well_formed


def test_transparency_and_palette_of_a_png_stay():
    image = Image.open(io.BytesIO(clean_png(PNGS["clear palette"]).data))
    assert image.info["transparency"][:3] == b"\0\1\2"
    np.testing.assert_array_equal(image.convert("RGBA"), Image.open(io.BytesIO(PNGS["clear palette"])).convert("RGBA"))


def webp(chunks):
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(c)) + c + bytes(len(c) % 2) for k, c in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_chunks(data):
    at, chunks = 12, []
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return chunks


WEBPS = {
    "lossy": encode(IMAGE, "WEBP"),
    "lossless": encode(ALPHA, "WEBP", lossless=True),
    "alpha": encode(ALPHA, "WEBP"),
    "animated": encode(IMAGE, "WEBP", save_all=True, append_images=[noise(60, 40)]),
}


@pytest.mark.parametrize("kind", WEBPS)
@pytest.mark.parametrize(
    "metadata", [[(b"ICCP", b"no profile")], [(b"EXIF", b"broken")], [(b"XMP ", b"\xff"), (b"ABCD", b"")]]
)
def test_no_metadata_of_a_webp_decides_about_its_pixels(kind, metadata):
    chunks = webp_chunks(WEBPS[kind])
    if chunks[0][0] != b"VP8X":
        size = b"".join(struct.pack("<I", side - 1)[:3] for side in IMAGE.size)
        chunks.insert(0, (b"VP8X", b"\x3c\0\0\0" + size))
    data = webp([chunks[0], *metadata, *chunks[1:], *metadata])
    np.testing.assert_array_equal(pixels(data), pixels(WEBPS[kind]))


@pytest.mark.parametrize("kind", ["lossy", "lossless"])
def test_a_length_in_a_webp_that_leads_nowhere_does_not_hide_the_image(kind):
    broken = bytearray(
        webp([(b"VP8X", b"\x20\0\0\0\x3b\0\0\x27\0\0"), (b"ICCP", b"x" * 30), *webp_chunks(WEBPS[kind])])
    )
    broken[34:38] = b"\xff\xff\xff\x7f"
    np.testing.assert_array_equal(pixels(bytes(broken)), pixels(WEBPS[kind]))


@pytest.mark.parametrize(
    ("kind", "expected"), [("lossy", True), ("lossless", True), ("alpha", False), ("animated", False)]
)
def test_simple_webps_are_well_formed(kind, expected):
    cleaned = clean_webp(WEBPS[kind])
    assert (cleaned.well_formed, cleaned.size) == (expected, IMAGE.size)
    assert clean_webp(encode(IMAGE, "WEBP", exif=EXIF)).well_formed
    assert not clean_webp(WEBPS[kind][:-9]).well_formed


def tiff(tags, order="<", data=bytes(60 * 40)):
    """A grey TIFF of one strip, with more tags, each (tag, type, count, value)."""
    own = [(256, 4, 1, 60), (257, 4, 1, 40), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    own += [(277, 3, 1, 1), (278, 4, 1, 40), (279, 4, 1, len(data))]
    entries = sorted([*own, *tags])

    def value(kind, number):
        return struct.pack(order + "HH", number, 0) if kind == 3 else struct.pack(order + "I", number)

    packed = b"".join(struct.pack(order + "HHI", tag, kind, count) + value(kind, v) for tag, kind, count, v in entries)
    header = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8 + len(data))
    return header + data + struct.pack(order + "H", len(entries)) + packed + struct.pack(order + "I", 8)


GREY = np.arange(60 * 40, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tag", [270, 282, 296, 700, 33723, 34377, 34665, 34675, 34853, 50838, 65000])
@pytest.mark.parametrize(
    ("kind", "count", "value"), [(7, 1 << 30, 8), (3, 1, 3), (4, 5, 1 << 31), (5, 1, 8), (12, 9, 8)]
)
def test_no_metadata_of_a_tiff_decides_about_its_pixels(order, tag, kind, count, value):
    plain = pixels(tiff([], order, GREY))
    assert plain[0, :, 0].tolist() == list(range(60))
    np.testing.assert_array_equal(pixels(tiff([(tag, kind, count, value)], order, GREY)), plain)


def test_a_tiff_keeps_its_orientation_and_the_first_of_two_tags():
    turned = pixels(tiff([(274, 3, 1, 6), (274, 3, 1, 7)], data=GREY))
    np.testing.assert_array_equal(turned, np.rot90(pixels(tiff([], data=GREY)), -1))
    assert clean_tiff(b"II*\0" + b"\xff" * 20).data == b"II*\0" + b"\xff" * 20


@pytest.mark.parametrize("options", [{"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"big_tiff": True}])
def test_only_the_first_page_of_a_tiff_is_kept(options):
    data = encode(IMAGE, "TIFF", save_all=True, append_images=[noise(60, 40)] * 3, **options)
    cleaned = picture_of("TIFF", data).data
    np.testing.assert_array_equal(pixels(data), pixels(encode(IMAGE, "TIFF", **options)))
    assert Image.open(io.BytesIO(cleaned)).n_frames == 1


JPEG = encode(IMAGE, "JPEG")
SEGMENTS = {
    "short JFIF": b"\xff\xe0\0\7JFIF\0",
    "short Adobe": b"\xff\xee\0\7Adobe",
    "short profile": b"\xff\xe2\0\x0eICC_PROFILE\0",
    "short Photoshop": b"\xff\xed\0\x1ePhotoshop 3.0\x008BIM\4\4\0\0\0\0\0\0",
    "a name without an end": b"\xff\xed\0\x16Photoshop 3.0\x008BIM\4\4",
    "broken EXIF": b"\xff\xe1\0\x10Exif\0\0II*\0\xff\xff",
    "broken MPF": b"\xff\xe2\0\x0cMPF\0II*\0\xff\xff",
    "XMP": b"\xff\xe1\0\x20http://ns.adobe.com/xap/1.0/\0\xff",
    "comment": b"\xff\xfe\0\2",
}


@pytest.mark.parametrize("what", SEGMENTS)
def test_no_metadata_of_a_jpeg_decides_about_its_pixels(what):
    np.testing.assert_array_equal(pixels(JPEG[:2] + SEGMENTS[what] + JPEG[2:]), pixels(JPEG))


def test_broken_exif_of_an_avif_decides_nothing():
    exif = with_orientation(6)
    exif[0x010E] = "text"
    data = encode(IMAGE, "AVIF", exif=exif)
    upright = pixels(data)
    at = data.index(b"MM\0*") if b"MM\0*" in data else data.index(b"II*\0")
    assert upright.shape == (60, 40, 3)
    np.testing.assert_array_equal(pixels(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]), upright)


@pytest.mark.parametrize("resolution", [b"\0\0\0\x0aresc\0\1", b"\0\0\0\x12resd" + bytes(10)])
def test_no_resolution_of_a_jpeg_2000_decides_about_its_pixels(resolution):
    data = encode(IMAGE, "JPEG2000")
    at = data.index(b"jp2h") - 4
    (length,) = struct.unpack_from(">I", data, at)
    box = struct.pack(">I", 8 + len(resolution)) + b"res " + resolution
    longer = data[:at] + struct.pack(">I", length + len(box)) + data[at + 4 : at + length] + box + data[at + length :]
    np.testing.assert_array_equal(pixels(longer), pixels(data))


WHOLE = {"PNG": list(PNGS.values()), "WebP": list(WEBPS.values())}


@given(st.sampled_from(["PNG", "WebP", "TIFF"]), st.data())
def test_any_bytes_are_cleaned_or_stay(name, data):
    whole = bytearray(data.draw(st.sampled_from(WHOLE.get(name, [tiff([], data=GREY)]))))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(whole)))
        whole[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=5))
    picture = picture_of(name, bytes(whole))
    assert len(picture.data) <= len(whole) + 400
    with contextlib.suppress(RefusedImageError):
        assert decode_rgb(bytes(whole), LIMIT).mode == "RGB"
