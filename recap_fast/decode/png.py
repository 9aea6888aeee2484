"""The picture in a PNG (third edition of the specification, W3C 2025): the chunks that its pixels follow from.

All others are left out, whatever is in them, and an APNG is its still image. Where a chunk's length leads nowhere, the
walk goes on at the next chunk whose checksum is right.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KINDS = re.compile(rb"IHDR|PLTE|tRNS|eXIf|IDAT|IEND")
_LETTERS = re.compile(rb"[A-Za-z]{4}")
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits a sample, by color type."""
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_MAX_SEARCHES = 4
"""Times the file's size, to be looked at in all where chunks have lengths that lead nowhere."""
_MAX_INFLATION = 1032
"""As much as deflate can expand: 258 bytes from two bits, and a block's header is not free (zlib's technical notes)."""


class CleanPng(NamedTuple):
    """A PNG of nothing but pixels."""

    data: bytes
    exif: bytes | None
    well_formed: bool
    max_pixels: float


class _Chunk(NamedTuple):
    kind: bytes
    content: bytes
    crc: bytes

    @property
    def is_valid(self) -> bool:
        return self.crc == struct.pack(">I", zlib.crc32(self.content, zlib.crc32(self.kind)))

    @property
    def raw(self) -> bytes:
        return b"".join((struct.pack(">I", len(self.content)), self.kind, self.content, self.crc))


def clean_png(data: bytes) -> CleanPng:
    """Takes the bytes of a PNG, in any state."""
    kept: list[_Chunk] = []
    exif, rest, is_whole = None, b"", True
    for item in _walk(data):
        if not isinstance(item, _Chunk):
            is_whole, rest = False, item
        elif item.kind == b"eXIf":
            exif = item.content if exif is None and item.is_valid else exif
        elif _decides_pixels(item, kept):
            kept.append(item)
    num_bytes = sum(len(chunk.content) for chunk in kept if chunk.kind == b"IDAT") + len(rest)
    well_formed = is_whole and _is_well_formed(kept)
    if kept and kept[-1].kind == b"IDAT" and not rest:  # the end is all that is missing
        rest = _END
    cleaned = b"".join([_SIGNATURE, *(chunk.raw for chunk in kept), rest])
    return CleanPng(cleaned, exif, well_formed, _max_pixels(kept, num_bytes))


def _decides_pixels(chunk: _Chunk, kept: list[_Chunk]) -> bool:
    if chunk.kind == b"tRNS":
        return chunk.is_valid and _is_transparency(chunk.content, kept)
    return chunk.kind in (b"IHDR", b"IDAT", b"IEND") or (chunk.kind == b"PLTE" and _color_type(kept) == 3)


def _walk(data: bytes) -> Iterator[_Chunk | bytes]:
    """The chunks to the end; where it skips something, b"" among them; at the end what is left of a cut IDAT."""
    at, budget = len(_SIGNATURE), _MAX_SEARCHES * len(data)
    while at + 8 <= len(data):
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 <= len(data) and _LETTERS.fullmatch(kind):
            yield _Chunk(kind, data[at + 8 : end], data[end : end + 4])
            if kind == b"IEND":
                return
            at = end + 4
        elif kind == b"IDAT":
            yield data[at:]
            return
        else:
            yield b""
            at, budget = _resume(data, at + 1, budget)
    yield b""


def _resume(data: bytes, start: int, budget: int) -> tuple[int, int]:
    """Where the next chunk is whose checksum is right, or the end; and what is left of the bytes to be looked at."""
    for match in _KINDS.finditer(data, start + 4):
        at = match.start() - 4
        end = match.end() + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            continue
        budget -= end - at
        if budget < 0:
            break
        if _Chunk(match[0], data[match.end() : end], data[end : end + 4]).is_valid:
            return at, budget
    return len(data), budget


def _color_type(kept: list[_Chunk]) -> int | None:
    header = kept[0].content if kept and kept[0].kind == b"IHDR" else b""
    return header[9] if len(header) == 13 else None


def _is_transparency(content: bytes, kept: list[_Chunk]) -> bool:
    color_type = _color_type(kept)
    if color_type == 3:
        return any(c.kind == b"PLTE" and 0 < len(content) <= len(c.content) // 3 for c in kept)
    return len(content) == {0: 2, 2: 6}.get(color_type or 0)


def _is_well_formed(kept: list[_Chunk]) -> bool:
    color_type = _color_type(kept)
    if color_type is None or not all(chunk.is_valid for chunk in kept if chunk.kind != b"IDAT"):
        return False
    order = b" ".join(chunk.kind for chunk in kept)
    if not re.fullmatch(rb"IHDR( PLTE)?( tRNS)?( IDAT)+ IEND", order) or kept[-1].content:
        return False
    palette = len(kept[1].content) if kept[1].kind == b"PLTE" else None
    if palette is not None and (palette % 3 or not 0 < palette <= 768):
        return False
    return (palette is None) != (color_type == 3) and _is_valid_header(kept[0].content)


def _is_valid_header(content: bytes) -> bool:
    width, height, depth, color_type, compression, filters, interlace = struct.unpack(">IIBBBBB", content)
    is_size = 0 < width < 2**31 and 0 < height < 2**31
    return is_size and depth in _DEPTHS.get(color_type, ()) and not compression and not filters and interlace <= 1


def _max_pixels(kept: list[_Chunk], num_bytes: int) -> float:
    color_type = _color_type(kept)
    if color_type not in _SAMPLES or not kept[0].content[8]:
        return float("inf")
    return num_bytes * _MAX_INFLATION * 8 / (_SAMPLES[color_type] * kept[0].content[8])
