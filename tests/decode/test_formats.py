import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pictures import encode, natural

from recap_fast.decode.formats import PILLOW_FORMATS, describe, is_cut, sniff

IMAGE = natural(60, 40)
ENCODED = {name: encode(IMAGE, pillows) for name, pillows in PILLOW_FORMATS.items()}


@pytest.mark.parametrize("name", ENCODED)
def test_the_format_is_known_by_its_first_bytes(name):
    assert sniff(ENCODED[name]) == name


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x18ftyphevx\0\0\0\0hevx", "HEIC"),
        (b"\0\0\0\x18ftypmsf1\0\0\0\0msf1avis", "AVIF"),
        (b"\xff\x0a rest", "JPEG XL"),
        (encode(IMAGE, "JPEG2000", no_jp2=True), "JPEG 2000"),
        (encode(IMAGE, "MPO", save_all=True, append_images=[IMAGE]), "JPEG"),
        (encode(IMAGE, "AVIF", save_all=True, append_images=[IMAGE]), "AVIF"),
        *((encode(IMAGE.convert(mode), "BMP")[14:], "DIB") for mode in ("1", "L", "P", "RGB", "RGBA")),
        (b"\x0c\0\0\0\x09\0\x09\0\1\0\x18\0" + bytes(300), "DIB"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
    ],
)
def test_more_formats_are_known_by_their_first_bytes(data, name):
    assert sniff(data) == name


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"\xef\xbb\xbf \n<HTML>", "HTML"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b'{"error": "not found"}', "JSON"),
        ("Zugriff verweigert – kein Bild".encode(), "text"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "a video"),
        (b"(\0\0\0 is no bitmap\0", "unknown bytes (they begin 28 00 00 00 20 69 73 20)"),
        (b"\x00\x01\x02\x03\xfe\xff", "unknown bytes (they begin 00 01 02 03 fe ff)"),
    ],
)
def test_what_is_no_image_is_described(data, words):
    assert sniff(data) is None
    assert describe(data) == words


def test_text_cut_inside_a_character_is_still_text():
    assert describe("é".encode() * 255 + b" \xc3\xa9") == "text"


@given(st.binary(max_size=80))
def test_any_bytes_can_be_judged(data):
    name = sniff(data)
    assert isinstance(describe(data), str)
    assert is_cut(name or "JPEG", data) in (True, False)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP", "GIF", "JPEG 2000", "AVIF"])
def test_a_missing_end_is_seen_wherever_the_cut_is(name):
    data = ENCODED[name]
    assert not is_cut(name, data)
    cuts = [data[:length] for length in range(12, len(data) - 4, 37)]
    assert all(is_cut(name, cut) for cut in cuts if not cut.endswith(b";"))  # which is the end of a GIF


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\0\x0cmetaabcd\0\0\0\1mdat\0\0\0\0\0\0\0\x12ab"),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl \0\0\0\x0ajxlc\xff\x0a"),
    ],
)
def test_a_cut_in_a_box_is_seen(name, data):
    borders = {at - 4 for kind in (b"ftyp", b"meta", b"mdat", b"jxlc") if (at := data.find(kind)) > 4}
    assert [end for end in range(12, len(data) + 1) if not is_cut(name, data[:end])] == [*sorted(borders), len(data)]
    assert not is_cut(name, data[: max(borders)] + b"\0\0\0\0mdat and all that follows")


@pytest.mark.parametrize("order", [">", "<"])
def test_a_tiff_is_cut_before_its_directory(order):
    start = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", 100)
    assert is_cut("TIFF", start + bytes(93))
    assert not is_cut("TIFF", start + bytes(94))


def test_the_end_of_a_thumbnail_is_not_the_end_of_a_jpeg():
    thumbnail = encode(IMAGE.resize((16, 12)), "JPEG")
    data = encode(IMAGE, "JPEG", exif=b"Exif\0\0" + thumbnail)
    assert not is_cut("JPEG", data)
    assert is_cut("JPEG", data[:-2])
    assert is_cut("JPEG", data[: 20 + len(thumbnail) + 40])
