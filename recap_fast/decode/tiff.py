"""The picture in a TIFF: a first directory with no tags but those that its pixels and its orientation follow from.

The file stays as it is otherwise; the new directory lies behind it, and is the last. Profiles, EXIF, XMP, IPTC and
Photoshop's blocks are in nobody's way then, and no other page.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

_BITS, _COMPRESSION, _PHOTOMETRIC, _NUM_SAMPLES = 258, 259, 262, 277
_BASELINE = {*range(254, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, 320}
_TAGS = _BASELINE | {322, 323, 324, 325, 332, 334, 338, 339, 347, *range(512, 522), *range(529, 533), 50674}
"""Sizes, bits, compression, strips, orientation, fax, predictor and colors; tiles, inks, samples, JPEG, YCbCr, LERC."""

_OTHER_COMPRESSIONS = {
    9: "T.85 JBIG",
    10: "T.43 JBIG",
    32766: "NeXT",
    32895: "IT8",
    32896: "IT8",
    34661: "JBIG",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34926: "Zstandard of an old kind",
    34933: "PNG",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Registered values of tag 259 that neither Pillow nor the libtiff in its wheels decodes."""


def other_compression(data: bytes) -> str | None:
    """The name of a TIFF's compression, where it is one that is not decoded."""
    entries = dict(_entries(data))
    value = _short(entries, _COMPRESSION, "<" if data.startswith(b"II") else ">", _is_big(data))
    return None if value is None else _OTHER_COMPRESSIONS.get(value)


class CleanTiff(NamedTuple):
    """A TIFF of nothing but pixels."""

    data: bytes
    white_is_zero: bool
    """Said of 16-bit greys alone, whose directory then says the opposite: Pillow takes some of these for something
    unknown and does not turn the others over, as it does those of 1 to 8 bits.
    """


def clean_tiff(data: bytes) -> CleanTiff:
    """Takes the bytes of a TIFF or BigTIFF, in any state; one without a first directory comes back as it is."""
    entries = dict(_entries(data))
    if not entries:
        return CleanTiff(data, False)
    order = "<" if data.startswith(b"II") else ">"
    is_big = _is_big(data)
    count_form, offset_form, offset_at = ("Q", "Q", 8) if is_big else ("H", "I", 4)
    padding = bytes(-len(data) % 8)
    if len(data) + len(padding) >= 1 << (8 * struct.calcsize(offset_form)):
        return CleanTiff(data, False)
    values = {tag: _short(entries, tag, order, is_big) for tag in (_BITS, _PHOTOMETRIC, _NUM_SAMPLES)}
    white_is_zero = values[_BITS] == 16 and values[_PHOTOMETRIC] == 0 and values[_NUM_SAMPLES] in (None, 1)
    if white_is_zero:
        form = "HHQHHI" if is_big else "HHIHH"
        entries[_PHOTOMETRIC] = struct.pack(order + form, _PHOTOMETRIC, 3, 1, 1, 0, *[0] * is_big)
    head = data[:offset_at] + struct.pack(order + offset_form, len(data) + len(padding))
    body = (
        struct.pack(order + count_form, len(entries)) + b"".join(entries.values()) + struct.pack(order + offset_form, 0)
    )
    return CleanTiff(b"".join([head, data[len(head) :], padding, body]), white_is_zero)


def _is_big(data: bytes) -> bool:
    return data[2:4] in (b"+\0", b"\0+")


def _short(entries: dict[int, bytes], tag: int, order: str, is_big: bool) -> int | None:
    """The value of a tag that is one SHORT; None where it is missing or something else."""
    entry = entries.get(tag, b"")
    if not entry or struct.unpack_from(order + ("HQ" if is_big else "HI"), entry, 2) != (3, 1):
        return None
    value: int = struct.unpack_from(order + "H", entry, 12 if is_big else 8)[0]
    return value


def _entries(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The entries of the first directory that are among `_TAGS`, of each tag the first; none where it leads nowhere."""
    order = "<" if data.startswith(b"II") else ">"
    count_form, size, offset_form, offset_at = ("Q", 20, "Q", 8) if _is_big(data) else ("H", 12, "I", 4)
    try:
        (directory,) = struct.unpack_from(order + offset_form, data, offset_at)
        (count,) = struct.unpack_from(order + count_form, data, directory)
    except (struct.error, OverflowError):
        return
    start = directory + struct.calcsize(order + count_form)
    seen = set()
    for at in range(start, start + min(count, (len(data) - start) // size) * size, size):
        (tag,) = struct.unpack_from(order + "H", data, at)
        if tag in _TAGS and tag not in seen:
            seen.add(tag)
            yield tag, data[at : at + size]
