"""The slow twin of `walk_jpeg` in csrc/core: the same by simple means, byte for byte."""

import struct
from collections.abc import Iterator

SOI, EOI, SOS, DQT, DHT, DRI, TEM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0x01
RESTARTS = range(0xD0, 0xD8)
METADATA = (*range(0xE0, 0xF0), 0xFE)


def walk_jpeg(data: bytes) -> tuple[bytes, int, int, bool]:
    """See `recap_fast/_core.pyi`."""
    if data[:2] != b"\xff\xd8":
        return b"", 1, 0, False
    out, parts = [b"\xff\xd8"], list(_parts(data))
    orientations = [_orientation(p[6:]) for c, p, _ in parts if c == 0xE1 and p is not None and p[:6] == b"Exif\0\0"]
    first_exif = True
    for code, content, raw in parts:
        if code in METADATA and content is not None:
            jfif = code == 0xE0 and len(content) >= 14 and content[:5] == b"JFIF\0"
            adobe = code == 0xEE and len(content) >= 12 and content[:5] == b"Adobe"
            if jfif or adobe:
                out.append(raw)
            if code == 0xE1 and content[:6] == b"Exif\0\0" and first_exif:
                first_exif = False
                if orientations[0] != 1:
                    tiff = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, orientations[0], 0, 0)
                    out.append(b"\xff\xe1\x00\x22Exif\0\0" + tiff)
        elif code is not None:
            out.append(raw)
    num_scans = sum(code == SOS and content is not None for code, content, _ in parts)
    return b"".join(out), orientations[0] if orientations else 1, num_scans, _is_well_formed(parts)


def _parts(data: bytes) -> Iterator[tuple[int | None, bytes | None, bytes]]:
    """(code, content or None where there is no segment, bytes); junk and fill bytes have no code."""
    at, scanned = 2, False
    while at < len(data):
        start = data.find(b"\xff", at)
        after = start + 1
        while start >= 0 and data[after : after + 1] == b"\xff":
            after += 1
        if start != at or data[after : after + 1] in (b"", b"\0"):
            yield None, None, b""
        if start < 0 or after >= len(data):
            return
        if data[after] == 0:
            at = after
            continue
        code, content_at = data[after], after + 1
        if code == EOI and scanned:
            yield EOI, None, b"\xff\xd9"
            return
        if code in (TEM, SOI, EOI, *RESTARTS):
            yield code, None, bytes([0xFF, code])
            at = content_at
            continue
        length = int.from_bytes(data[content_at : content_at + 2], "big")
        if len(data) < content_at + 2 or length < 2 or content_at + length > len(data):
            yield -1, None, data[after - 1 :]
            return
        at = content_at + length
        end = at
        if code == SOS:
            scanned, end = True, _end_of_scan(data, at)
        yield code, data[content_at + 2 : at], data[after - 1 : end]
        at = end


def _end_of_scan(data: bytes, at: int) -> int:
    while at + 1 < len(data):
        if data[at] == 0xFF and data[at + 1] not in (0, 0xFF, *RESTARTS):
            return at
        at += 2 if data[at] == 0xFF and data[at + 1] != 0xFF else 1
    return len(data)


def _orientation(tiff: bytes) -> int:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        if at + 12 > len(tiff):
            return 1
        tag, kind, number = struct.unpack_from(order + "HHI", tiff, at)
        if tag == 0x0112:
            form = {1: "B", 3: "H", 4: "I"}.get(kind)
            value = struct.unpack_from(order + form, tiff, at + 8)[0] if form and number == 1 else 1
            return value if 1 <= value <= 8 else 1
    return 1


def _is_well_formed(parts: list[tuple[int | None, bytes | None, bytes]]) -> bool:
    frame, quantization, huffman, scans = None, set(), set(), 0
    for code, content, _ in parts:
        if code in METADATA:
            continue
        if code == EOI:
            return frame is not None and scans > 0
        if content is None:
            return False
        if code == DQT:
            ids = _tables(content, lambda c: 1 + 64 * (1 + (c[0] >> 4)) if c[0] >> 4 < 2 and c[0] & 15 < 4 else 0)
            if ids is None:
                return False
            quantization |= {i & 15 for i in ids}
        elif code == DHT:
            ids = _tables(content, _huffman_size)
            if ids is None:
                return False
            huffman |= set(ids)
        elif code == DRI:
            if len(content) != 2:
                return False
        elif code in (0xC0, 0xC1, 0xC2):
            if frame is not None or not _is_frame(content):
                return False
            frame = code, {content[i]: content[i + 2] for i in range(6, len(content), 3)}
        elif code == SOS:
            if frame is None or not _is_scan(content, frame, quantization, huffman):
                return False
            scans += 1
        else:
            return False
    return False


def _tables(content, size_of) -> list[int] | None:
    ids = []
    while content:
        size = size_of(content)
        if not size or size > len(content):
            return None
        ids.append(content[0])
        content = content[size:]
    return ids


def _huffman_size(content) -> int:
    counts = content[1:17]
    if content[0] not in (0, 1, 2, 3, 16, 17, 18, 19) or len(counts) < 16 or sum(counts) > 256:
        return 0
    if sum(count / 2 ** (i + 1) for i, count in enumerate(counts)) > 1:
        return 0
    symbols = content[17 : 17 + sum(counts)]
    return 0 if content[0] < 16 and len(symbols) == sum(counts) and any(s > 15 for s in symbols) else 17 + sum(counts)


def _is_frame(content) -> bool:
    if len(content) < 6 or content[0] != 8 or content[5] not in (1, 3) or len(content) != 6 + 3 * content[5]:
        return False
    components = [content[i : i + 3] for i in range(6, len(content), 3)]
    factors = all(c[1] >> 4 in (1, 2, 3, 4) and c[1] & 15 in (1, 2, 3, 4) and c[2] < 4 for c in components)
    return factors and content[1:3] != b"\0\0" != content[3:5] and len({c[0] for c in components}) == len(components)


def _is_scan(content, frame, quantization, huffman) -> bool:
    code, tables = frame
    if not content or not 1 <= content[0] <= len(tables) or len(content) != 4 + 2 * content[0]:
        return False
    first, last, high, low = content[-3], content[-2], content[-1] >> 4, content[-1] & 15
    is_sequential = (first, last, high, low) == (0, 63, 0, 0)
    is_band = (first, last) == (0, 0) or (1 <= first <= last <= 63 and content[0] == 1)
    if not (is_band and low <= 13 and high in (0, low + 1) if code == 0xC2 else is_sequential):
        return False
    for component, chosen in zip(content[1:-3:2], content[2:-3:2], strict=True):
        dc, ac = chosen >> 4, chosen & 15
        if component not in tables or dc > 3 or ac > 3 or tables[component] not in quantization:
            return False
        if (first == 0 and high == 0 and dc not in huffman) or (last and 16 + ac not in huffman):
            return False
    return True
