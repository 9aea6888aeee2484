"""The picture in a WebP (RFC 9649): its image data, the alpha and, where it moves, the first frame.

Profiles, EXIF and XMP are left out. Pillow allocates two canvases on opening a WebP, so its size is read here.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_FRAME = re.compile(rb"VP8 .{7}\x9d\x01\x2a|VP8L.{4}\x2f", re.DOTALL)
"""How a chunk with image data begins: length, then what every VP8 key frame and every VP8L stream begins with."""
_ALPHA, _ANIMATION = 0x10, 0x02
"""Flags of a VP8X chunk."""
_LOSSY_PIXELS_PER_BYTE = 1024
"""A macroblock of 256 pixels takes at least 3.4 bits of the boolean coder (fixed probabilities of the modes of key
frames, RFC 6386, 11.2), which is 600 pixels a byte. Lossless data have no such bound: one color takes no bits at all.
"""


class CleanWebp(NamedTuple):
    """A WebP of nothing but pixels."""

    data: bytes
    exif: bytes | None
    well_formed: bool
    """Simple WebP, without alpha in a chunk of its own and without frames."""
    max_pixels: float
    size: tuple[int, int] | None
    """Width and height; None where the file has none."""


class _Chunk(NamedTuple):
    kind: bytes
    content: bytes

    @property
    def raw(self) -> bytes:
        return self.kind + len(self.content).to_bytes(4, "little") + self.content + bytes(len(self.content) % 2)


def clean_webp(data: bytes) -> CleanWebp:
    """Takes the bytes of a WebP, in any state."""
    found: dict[bytes, _Chunk] = {}
    for chunk in _walk(data):
        found.setdefault(chunk.kind, chunk)
    exif = found[b"EXIF"].content if b"EXIF" in found else None
    canvas = found.get(b"VP8X")
    size = None if canvas is None else _canvas_size(canvas)
    if canvas is not None and size is not None and b"ANMF" in found:
        flags = bytes([canvas.content[0] & (_ALPHA | _ANIMATION)])
        chunks = [_Chunk(b"VP8X", flags + canvas.content[1:]), found.get(b"ANIM"), found[b"ANMF"]]
        return CleanWebp(_file(chunks), exif, False, float("inf"), size)
    image = found.get(b"VP8 ") or found.get(b"VP8L")
    if image is None or _image_size(image) is None:
        return CleanWebp(data, exif, False, float("inf"), _declared_size(data))
    return _clean_still(image, found.get(b"ALPH"), None if size is None else canvas, exif)


def _clean_still(image: _Chunk, alpha: _Chunk | None, canvas: _Chunk | None, exif: bytes | None) -> CleanWebp:
    is_lossy, size = image.kind == b"VP8 ", _image_size(image)
    alpha = alpha if is_lossy else None
    max_pixels = _LOSSY_PIXELS_PER_BYTE * len(image.content) if is_lossy else float("inf")
    if canvas is None or (alpha is None and _canvas_size(canvas) == size):
        return CleanWebp(_file([image]), exif, True, max_pixels, size)
    flags = bytes([canvas.content[0] & _ALPHA if alpha is None else _ALPHA])
    header = _Chunk(b"VP8X", flags + canvas.content[1:10])
    return CleanWebp(_file([header, alpha, image]), exif, False, max_pixels, _canvas_size(canvas))


def _walk(data: bytes) -> Iterator[_Chunk]:
    """The whole chunks; where a length leads nowhere, the walk goes on at the next image data."""
    at = 12
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length
        if end <= len(data) and re.fullmatch(rb"[A-Z0-9 ]{4}", kind):
            yield _Chunk(kind, data[at + 8 : end])
            at = end + length % 2
        elif kind not in (b"VP8 ", b"VP8L", b"ANMF") and (match := _FRAME.search(data, at + 4)):
            at = match.start()
        else:
            return


def _file(chunks: list[_Chunk | None]) -> bytes:
    body = b"".join([b"WEBP", *(chunk.raw for chunk in chunks if chunk is not None)])
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _canvas_size(canvas: _Chunk) -> tuple[int, int] | None:
    content = canvas.content
    if len(content) < 10:
        return None
    return int.from_bytes(content[4:7], "little") + 1, int.from_bytes(content[7:10], "little") + 1


def _image_size(image: _Chunk) -> tuple[int, int] | None:
    """None where it is no key frame of VP8, and no VP8L."""
    content = image.content
    if image.kind == b"VP8L" and len(content) >= 5 and content[0] == 0x2F and content[4] >> 5 == 0:
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if image.kind == b"VP8 " and len(content) >= 10 and not content[0] & 1 and content[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(content[i : i + 2], "little") & 0x3FFF for i in (6, 8))
        return (width, height) if width and height else None
    return None


def _declared_size(data: bytes) -> tuple[int, int] | None:
    """Of a file whose first chunk may be cut."""
    first = _Chunk(data[12:16], data[20:30])
    return _canvas_size(first) if first.kind == b"VP8X" else _image_size(first)
