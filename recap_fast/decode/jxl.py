"""The size that a JPEG XL declares (ISO/IEC 18181-1, SizeHeader): its plugin decodes on opening."""

from collections.abc import Iterator

_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_FIELD_BITS = (9, 13, 18, 30)


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as displayed or turned by 90 degrees; None for data that end before them."""
    codestream = _codestream(data)
    if codestream is None or len(codestream) < 3:
        return None
    bits = int.from_bytes(codestream[2:20], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    is_small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if is_small else take(_FIELD_BITS[take(2)]) + 1

    height = side()
    ratio = take(3)
    if ratio == 0:
        return side(), height
    numerator, denominator = _RATIOS[ratio - 1]
    return height * numerator // denominator, height


def _codestream(data: bytes) -> bytes | None:
    """The first bytes of the codestream: the file itself, or a box of it (ISO/IEC 18181-2)."""
    if data.startswith(b"\xff\x0a"):
        return data[:20]
    for kind, start in _boxes(data):
        if kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0
            return data[start : start + 20]
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The kind of each box and where its content starts."""
    at = 0
    while at + 8 <= len(data):
        size, start = int.from_bytes(data[at : at + 4], "big"), at + 8
        if size == 1:
            size, start = int.from_bytes(data[start : start + 8], "big"), at + 16
        yield data[at + 4 : at + 8], start
        if size < start - at:
            return
        at += size
