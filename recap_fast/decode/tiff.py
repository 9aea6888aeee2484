"""The picture in a TIFF: a first directory with no tags but those that its pixels and its orientation follow from.

The file stays as it is otherwise; the new directory lies behind it, and is the last. Profiles, EXIF, XMP, IPTC and
Photoshop's blocks are in nobody's way then, and no other page.
"""

import struct
from collections.abc import Iterator

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
    order = "<" if data.startswith(b"II") else ">"
    value_at = 12 if data[2:4] in (b"+\0", b"\0+") else 8
    for entry in _entries(data):
        if entry[:2] == struct.pack(order + "H", 259):
            return _OTHER_COMPRESSIONS.get(struct.unpack_from(order + "H", entry, value_at)[0])
    return None


def clean_tiff(data: bytes) -> bytes:
    """Takes the bytes of a TIFF or BigTIFF, in any state; one without a first directory comes back as it is."""
    entries = list(_entries(data))
    if not entries:
        return data
    order = "<" if data.startswith(b"II") else ">"
    count_form, offset_form, offset_at = ("Q", "Q", 8) if len(entries[0]) == 20 else ("H", "I", 4)
    padding = bytes(-len(data) % 8)
    if len(data) + len(padding) >= 1 << (8 * struct.calcsize(offset_form)):
        return data
    head = data[:offset_at] + struct.pack(order + offset_form, len(data) + len(padding))
    body = struct.pack(order + count_form, len(entries)) + b"".join(entries) + struct.pack(order + offset_form, 0)
    return b"".join([head, data[len(head) :], padding, body])


def _entries(data: bytes) -> Iterator[bytes]:
    """The entries of the first directory that are among `_TAGS`, of each tag the first; none where it leads nowhere."""
    order = "<" if data.startswith(b"II") else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    count_form, size, offset_form, offset_at = ("Q", 20, "Q", 8) if is_big else ("H", 12, "I", 4)
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
            yield data[at : at + size]
