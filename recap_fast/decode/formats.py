"""What bytes are, by their first bytes: the image format, or for anything else a word for what it looks like.

File names and declared types are not asked: on the web a `.jpg` is often a PNG, and sometimes the page that says 404.
"""

import re

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"BM", "BMP"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "PSD"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"%!PS", "PostScript"),
)
_HEIF_BRANDS = (b"hei", b"hev", b"mif1", b"msf1")
_DIB = re.compile(
    rb"\x0c\x00{3}.{4}\x01\x00[\x01\x04\x08\x18]\x00|"
    rb"[\x28\x34\x38\x40\x6c\x7c]\x00{3}.{8}\x01\x00[\x01\x04\x08\x10\x18\x20]\x00[\x00-\x06]\x00{3}",
    re.DOTALL,
)
"""A bitmap without the header of a file: the size of its own header, the image's size, one plane, the bits a pixel."""
_FILES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"ID3", "audio"),
    (b"OggS", "audio"),
)
_OTHER_PROCESSES = {
    **dict.fromkeys((b"\xc3", b"\xc7", b"\xcb", b"\xcf"), "lossless"),
    **dict.fromkeys((b"\xc5", b"\xc6", b"\xcd", b"\xce"), "hierarchical"),
    b"\xf7": "JPEG-LS",
}
PILLOW_FORMATS = {
    name: name.upper().replace(" ", "")
    for name in ("JPEG", "PNG", "WebP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG 2000", "PPM")
}
"""Pillow's name for each format that it decodes. PostScript is left out on purpose: Pillow runs Ghostscript for it."""


def sniff(data: bytes) -> str | None:
    """The format that the bytes begin like ('JPEG', 'PNG', 'HEIC', 'SVG', ...), or None where that is no image's."""
    for offset, magic, name in _MAGIC:
        if data.startswith(magic, offset) and (name != "WebP" or data.startswith(b"RIFF")):
            return name
    if data[4:8] == b"ftyp":
        brands = data[8 : min(64, int.from_bytes(data[:4], "big"))]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        return "HEIC" if any(brand in brands for brand in _HEIF_BRANDS) else None
    if re.match(rb"P[1-7][\s#]", data):
        return "PPM"
    if _DIB.match(data):
        return "DIB"
    return "SVG" if _is_markup(data) and re.search(rb"<svg[\s>]", data[:4096]) else None


def describe(data: bytes) -> str:
    """A few words for bytes that are no image: 'HTML', 'JSON', 'text', 'a video', or the first bytes in hex."""
    for magic, name in _FILES:
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp" or (data.startswith(b"RIFF") and data[8:12] == b"AVI "):
        return "a video"
    if _is_markup(data):
        return "HTML" if re.search(rb"<(!doctype html|html|head|body)\b", data[:4096], re.IGNORECASE) else "XML"
    head = data[:512]
    # A character cut at the end of the window is no reason to call UTF-8 binary.
    text = head.decode("utf-8", errors="ignore")
    if len(text.encode()) < len(head) - 3 or any(ord(c) < 32 and c not in "\t\n\f\r" for c in text):
        return f"unknown bytes (they begin {head[:8].hex(' ')})"
    return "JSON" if text.lstrip()[:1] in ("{", "[") else "text"


def is_cut(image_format: str, data: bytes) -> bool:
    """Whether a file of this format ends before its structure says; False where the structure does not tell."""
    if image_format == "JPEG":
        return data.find(b"\xff\xd9", _find_scan(data)) < 0
    if image_format == "PNG":
        return data.rfind(b"IEND") < 0
    if image_format == "WebP":
        # Some writers leave out the byte that pads to an even size.
        return int.from_bytes(data[4:8], "little") + 8 > len(data) + 1
    if image_format == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    if image_format == "TIFF" and data[2:3] in (b"*", b"\0"):
        return int.from_bytes(data[4:8], "little" if data.startswith(b"II") else "big") + 2 > len(data)
    if image_format == "JPEG 2000":  # no codestream has the mark of its end before that
        return (start := data.find(b"\xff\x4f\xff\x51")) < 0 or data.find(b"\xff\xd9", start) < 0
    if image_format in ("AVIF", "HEIC") or (image_format == "JPEG XL" and data.startswith(b"\0")):
        return _ends_in_a_box(data)
    return False


def _ends_in_a_box(data: bytes) -> bool:
    """Of a file of boxes (ISO/IEC 14496-12, 4.2), each of which begins with its size."""
    at = 0
    while at < len(data):
        size, smallest = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, smallest = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if size < smallest:  # a box to the end of the file, or damaged
            return len(data) - at < smallest
        at += size
    return at > len(data)


def other_process(data: bytes) -> str | None:
    """The name of a JPEG's coding process, where it is one that is not decoded (ITU-T T.81, table B.1)."""
    position = 2
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1 : position + 2]
        if marker == b"\xda":
            return None
        if marker in _OTHER_PROCESSES:
            return _OTHER_PROCESSES[marker]
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _find_scan(data: bytes) -> int:
    """Where a JPEG's first scan starts: past the segments, among them EXIF data with a whole JPEG as thumbnail."""
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return position


def _is_markup(data: bytes) -> bool:
    return data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
