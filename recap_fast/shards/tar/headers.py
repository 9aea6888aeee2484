"""What the blocks of a tar say: numbers, names, extended headers, maps of sparse files.

Formats: POSIX.1-2001, "pax Interchange Format"; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

BLOCK = 512
MAX_EXTENDED_BYTES = 1 << 20
"""So much of an extended header is read; values that are not needed, such as attributes of files, are skipped."""
Read = Callable[[int, int], bytes]
"""Offset and size in, that part of the archive out; shorter where the file ends."""
Pieces = tuple[tuple[int, int], ...]
"""Of a sparse file: where its pieces belong in it, and their sizes. They lie in the archive one after another."""
_SIGNED = struct.Struct("148b8x356b")
_MAX_DIGITS = 20
_MANY_ZEROS = 256
"""A block with so many has a sum below 65,521: the others have 255 at most."""
_WANTED = (b"path", b"size", b"linkpath")
_SPARSE = b"GNU.sparse."


class DamagedHeaderError(ValueError):
    """A block that should be a header and is none."""


@dataclass(slots=True)
class Overrides:
    """What extended headers say of the next member."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    """Of a sparse file in pax format 0.0 and 0.1: positions and sizes, alternating."""

    @property
    def found(self) -> bool:
        """Whether there is anything."""
        return bool(self.values or self.pieces)

    @property
    def is_sparse(self) -> bool:
        """Whether it is a sparse file in pax format."""
        return b"GNU.sparse.realsize" in self.values or b"GNU.sparse.size" in self.values

    @property
    def name(self) -> bytes | None:
        """Without it, that of the header."""
        return self.values.get(b"GNU.sparse.name") or self.values.get(b"path")

    @property
    def link(self) -> bytes | None:
        """The target of a link; without it, that of the header."""
        return self.values.get(b"linkpath")

    def size(self, block: bytes) -> int:
        """Bytes of the content in the archive: as the header says where no other size is readable.

        Raises DamagedHeaderError.
        """
        size = self.values.get(b"size", b"")
        return int(size) if size.isdigit() and len(size) <= _MAX_DIGITS else number(block[124:136])


def round_up(offset: int) -> int:
    """To whole blocks."""
    return -(-offset // BLOCK) * BLOCK


def check_sum(block: bytes) -> None:
    """Raises DamagedHeaderError where the block's checksum is wrong."""
    expected = number(block[148:156])
    # the sum of all bytes with those of the sum itself taken as spaces; some old tars added signed bytes
    if expected != sum_of(block) - sum(block[148:156]) + 256 and expected != sum(_SIGNED.unpack_from(block)) + 256:
        raise DamagedHeaderError("its checksum is wrong")


def sum_of(block: bytes) -> int:
    """The sum of a block's bytes: Adler-32 has it, plus 1 and modulo 65,521, in a tenth of the time."""
    total = (zlib.adler32(block) & 0xFFFF) - 1
    return total if block.count(b"\0") > _MANY_ZEROS else sum(block)


def number(text: bytes) -> int:
    """Octal text, or base-256 where the first bit is set. Raises DamagedHeaderError for anything else, and below 0."""
    if text[0] & 0x80:
        value = int.from_bytes(text, "big", signed=False) - (0x80 << 8 * (len(text) - 1))
        if text[0] != 0x80:
            raise DamagedHeaderError(f"a number out of range ({text!r})")
        return value
    digits = text.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise DamagedHeaderError(f"a field that is not a number ({text!r})")
    return int(digits or b"0", 8)


def decimal(text: bytes) -> int:
    """Raises DamagedHeaderError where the text is not a number of a file's size."""
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise DamagedHeaderError(f"a size that is not a number ({text[:40]!r})")
    return int(text)


def until_nul(text: bytes) -> bytes:
    """What of a field is text."""
    return text.partition(b"\0")[0]


def name_of(block: bytes) -> bytes:
    """The name that a header has by itself."""
    name = until_nul(block[:100])
    prefix = until_nul(block[345:500]) if block[257:263] == b"ustar\x00" else b""
    return prefix + b"/" + name if prefix else name


def extend(kind: bytes, read: Read, offset: int, size: int, overrides: Overrides) -> None:
    """Takes the content of an extended header. What of it is damaged is skipped: it decides about no member."""
    if kind in b"LK":
        name = until_nul(read(offset, min(size, MAX_EXTENDED_BYTES)))
        overrides.values[b"path" if kind == b"L" else b"linkpath"] = name
    elif kind in b"xX":  # global headers ('g') carry comments; none of what is read here
        for key, value in _pax_records(read, offset, offset + size):
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                overrides.pieces.append(value)
            elif key == b"GNU.sparse.map":
                overrides.pieces += value.split(b",")
            else:
                overrides.values[key] = value


def _pax_records(read: Read, offset: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """`<length> <key>=<value>\\n`, repeated; the length counts itself. Of those that are wanted."""
    budget = MAX_EXTENDED_BYTES
    window, start = b"", offset
    while offset < end and budget > 0:
        if offset - start + 64 > len(window):
            window, start = read(offset, min(end - offset, 4096)), offset
            budget -= len(window)
        head = window[offset - start : offset - start + 64]
        length_text, space, rest = head.partition(b" ")
        if not space or not length_text.isdigit() or len(length_text) > _MAX_DIGITS:
            return
        length = int(length_text)
        key, equals, _ = rest.partition(b"=")
        if length < len(length_text) + 3 or offset + length > end:
            return
        if equals and (key in _WANTED or key.startswith(_SPARSE)):
            first = len(length_text) + 1 + len(key) + 1
            size = length - first - 1
            if size < 0 or size > budget:
                return
            budget -= size
            value = read(offset + first, size + 1)
            if not value.endswith(b"\n"):
                return
            yield key, value[:-1]
        offset += length


def old_sparse_map(block: bytes, read: Read, offset: int) -> tuple[list[bytes], int]:
    """Of a header of type 'S': the numbers of its map, and where the content begins. Raises DamagedHeaderError."""
    texts = [block[position : position + 12] for position in range(386, 482, 12)]
    more = block[482:483]
    while more not in b"\x00":
        if len(texts) * 12 > MAX_EXTENDED_BYTES:
            raise DamagedHeaderError("a map of a sparse file without an end")
        extension = read(offset, BLOCK)
        texts += [extension[position : position + 12] for position in range(0, 504, 12)]
        more, offset = extension[504:505], offset + BLOCK
    return [text for text in texts if text.strip(b"\x00 ")], offset


def pieces_of(texts: list[bytes]) -> Pieces:
    """From the numbers of a map as headers write them. Raises DamagedHeaderError."""
    return _pairs([number(text) for text in texts])


def pax_sparse_map(overrides: Overrides, read: Read, offset: int) -> tuple[Pieces, int, int]:
    """Of a sparse file in pax format: its pieces, its size in bytes, and where its content begins.

    The map is in the extended header or, from version 1.0 on, before the content. Raises DamagedHeaderError.
    """
    values = overrides.values
    size = decimal(values.get(b"GNU.sparse.realsize") or values.get(b"GNU.sparse.size") or b"")
    if values.get(b"GNU.sparse.major", b"0") == b"0":
        return _pairs([decimal(text) for text in overrides.pieces]), size, offset
    lines = read(offset, MAX_EXTENDED_BYTES).split(b"\n")
    count = decimal(lines[0])
    numbers = [decimal(text) for text in lines[1 : 1 + 2 * count]]
    if len(lines) < 2 + 2 * count:
        raise DamagedHeaderError("a map without an end")
    return _pairs(numbers), size, round_up(offset + sum(len(line) + 1 for line in lines[: 1 + 2 * count]))


def _pairs(numbers: list[int]) -> Pieces:
    return tuple(zip(numbers[::2], numbers[1::2], strict=False))
