"""The picture in an image file, apart from all that came with it: text, profiles, thumbnails, later frames.

In go encoded bytes and their format, out come bytes of the same format with nothing but the (first) picture, so that
no decoder reads metadata: damaged or huge, they decide nothing. What is damaged in the picture itself stays as it is.
"""

import re
import struct
from dataclasses import dataclass

from PIL import ExifTags, Image

from recap_fast.decode.jxl import jxl_size
from recap_fast.decode.png import clean_png
from recap_fast.decode.tiff import clean_tiff
from recap_fast.decode.webp import clean_webp

_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)
"""The entry of EXIF data in the table of a HEIF or AVIF file's items (ISO/IEC 14496-12, 8.11.6)."""

_RESOLUTION_BOX = re.compile(rb"res (?=.{4}res[cd])", re.DOTALL)
"""The type of a JP2's box with resolutions (ISO/IEC 15444-1, I.5.3.7): Pillow reads it, and fails on a broken one."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, still encoded."""

    data: bytes
    orientation: int | None = None
    """Of EXIF, 1 to 8; None: the opened image knows."""
    well_formed: bool = False
    """Whether the structure is as the standard has it, so that DALI may see it; entropy-coded data are not looked into.
    """
    num_scans: int = 1
    """Passes over all pixels that decoding takes."""
    max_pixels: float = float("inf")
    """As many as such data can hold, whatever the header declares."""
    white_is_zero: bool = False
    """Whether to turn over the greys that Pillow gives."""
    size: tuple[int, int] | None = None
    """Width and height that the header declares, where no decoder may open the file before they are known."""


def picture_of(name: str, data: bytes) -> Picture:
    """The picture in the bytes of a file of format `name`, as `formats.sniff` gives it."""
    if name == "JPEG":
        from recap_fast.arrow_core import core  # brings pyarrow, which the stage has no other use for

        cleaned, orientation, num_scans, well_formed = core.walk_jpeg(data)
        return Picture(cleaned, orientation, well_formed, num_scans, _max_jpeg_pixels(cleaned))
    if name == "PNG":
        png = clean_png(data)
        return Picture(png.data, read_orientation(png.exif), png.well_formed, max_pixels=png.max_pixels)
    if name == "WebP":
        webp = clean_webp(data)
        return Picture(
            webp.data, read_orientation(webp.exif), webp.well_formed, max_pixels=webp.max_pixels, size=webp.size
        )
    if name == "TIFF":
        tiff = clean_tiff(data)
        return Picture(tiff.data, white_is_zero=tiff.white_is_zero)
    if name in ("AVIF", "HEIC"):  # these rotate by boxes of their own, and EXIF's orientation is for information only
        return Picture(_EXIF_ITEM.sub(rb"\1none", data))
    if name == "JPEG 2000":
        return Picture(_RESOLUTION_BOX.sub(b"free", data, count=1))
    return Picture(data, size=jxl_size(data) if name == "JPEG XL" else None)


def read_orientation(exif: bytes | None) -> int:
    """The orientation in EXIF data, 1 to 8; 1 where there is none or they are broken."""
    if not exif:
        return 1
    parsed = Image.Exif()
    try:
        parsed.load(exif)
        value = parsed.get(ExifTags.Base.Orientation)
    except (ArithmeticError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _max_jpeg_pixels(data: bytes) -> float:
    """Every block takes at least one bit, for its DC code; no sampling makes more than 1,024 pixels of 8 blocks.

    Arithmetic coding (SOF9 and above) has no such bound.
    """
    is_huffman = re.search(rb"\xff[\xc9-\xcb\xcd-\xcf]", data[:1024]) is None
    return 1024 * len(data) if is_huffman else float("inf")
