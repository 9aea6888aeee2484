"""A tar's headers, read by seeking over the contents: where the bytes of every member lie.

In goes an open file; out come members in order. Knows ustar, GNU (long names, base-256 sizes, sparse files) and pax
(path, size, sparse files). Python's `tarfile` takes an archive that is damaged or cut for a shorter one without a word,
and needs three times as long (4.2 s against 1.5 s for 90,000 members).
"""

import errno
import io
import os
from collections.abc import Iterator
from typing import IO, NamedTuple

from recap_fast.errors import ShardError
from recap_fast.shards.tar.headers import (
    BLOCK,
    DamagedHeaderError,
    Overrides,
    Pieces,
    check_sum,
    extend,
    name_of,
    number,
    old_sparse_map,
    pax_sparse_map,
    pieces_of,
    round_up,
    until_nul,
)

MAX_ZEROS = 16 << 20
"""So many bytes of zeros after an end mark are read in search of another tar. Holes of the file are not counted."""
_ZEROS = bytes(BLOCK)
_CHUNK = 1 << 20
_MAX_SIZE = 1 << 62
"""Fits 64 bits whatever is added to it; a larger size is cut to this, which is beyond the end of any file."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_EXTENDED, _WITHOUT_CONTENT = b"LKxXg", b"123456"
"""Types of headers that describe the next one; types whose size says nothing, as no content follows."""
_ASIDE = b"ADEINV"
"""Types of what is no file: lists of access rights and attributes, listings of folders, volume labels, old names."""


class Member(NamedTuple):
    """A file in the archive. `offset` and `size` of its content are in bytes."""

    name: bytes
    offset: int
    size: int
    link: bytes | None = None
    """Of a hard or a symbolic link: what it names."""
    symbolic: bool = False
    special: str | None = None
    """What it is where it is not a plain file: it has no content that can be read."""
    pieces: Pieces | None = None
    """Of a sparse file: where its content belongs. `size` is then that of the content in the archive."""
    whole_size: int = 0
    """Of a sparse file: bytes, holes and all."""

    def fill(self, content: bytes) -> bytes:
        """Of a sparse file: its content in the archive with the holes between."""
        whole, start = bytearray(self.whole_size), 0
        for position, length in self.pieces or ():
            whole[position : position + length] = content[start : start + length]
            start += length
        return bytes(whole)


class TarIndexer:
    """Iterate over it once for the members; then `problem` says why, and where, the archive could not be read on."""

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        """`file` is read from its start, `size_bytes` is its length. Raises ShardError where that cannot be a tar."""
        self._file, self._size = file, size_bytes
        self.problem: str | None = None
        self.remark: str | None = None
        """What was passed over that need not be a problem."""
        self.ended = False
        """Whether the mark at the end of the archive was there."""
        self.span = (0, 0, 0)
        """Of the member that came last: where its extended headers begin, its own header, and what follows it."""
        self._check_start()

    def __iter__(self) -> Iterator[Member]:
        offset = first = 0
        overrides = Overrides()
        while offset + BLOCK <= self._size:
            block = self._read(offset, BLOCK)
            if block == _ZEROS:
                self.ended, offset, overrides = True, self._skip_zeros(offset + BLOCK), Overrides()
                first = offset
                continue
            try:
                member, next_offset = self._header(block, offset, overrides)
            except DamagedHeaderError as error:
                if not self.ended:  # what follows the end mark may be anything
                    self.problem = f"damaged at byte {offset:,}: {error}; what follows is unread"
                return
            self.ended = False
            if next_offset is None or next_offset > self._size:
                self.problem = f"cut off at byte {self._size:,}"
            if member is not None:
                self.span = first, offset, next_offset or self._size
                yield member
            if next_offset is None:
                return
            if overrides.found and block[156:157] not in _EXTENDED:
                overrides = Overrides()
            first = _start_of_next(block[156:157], first, offset, next_offset)
            offset = next_offset
        if self.problem is None and not self.ended:
            self.problem = f"cut off at byte {self._size:,}: there is no end-of-archive mark"

    def _check_start(self) -> None:
        start = self._read(0, BLOCK)
        for magic, name in _COMPRESSED.items():
            if start.startswith(magic):
                raise ShardError(f"is compressed with {name}: members of a tar are read by offset, so unpack it first")
        if len(start) < BLOCK:
            raise ShardError(f"is not a tar: it has {len(start)} bytes")
        if start != _ZEROS:
            try:
                check_sum(start)
            except DamagedHeaderError as error:
                raise ShardError(f"is not a tar: {error} at byte 0") from error

    def _header(self, block: bytes, offset: int, overrides: Overrides) -> tuple[Member | None, int | None]:
        """The member if it is one, and where the next header is: None where the file ends before."""
        check_sum(block)
        kind = block[156:157]
        content = offset + BLOCK
        if kind in _EXTENDED:
            content_end = content + Overrides().size(block)
            if content_end > self._size:
                return None, None
            extend(kind, self._read, content, content_end - content, overrides)
            return None, round_up(content_end)
        if kind in b"0\0" and not overrides.found and not (name := name_of(block)).endswith(b"/"):  # nearly all
            return Member(name, content, min(size := number(block[124:136]), _MAX_SIZE)), round_up(content + size)
        return self._odd(kind, block, content, overrides)

    def _odd(self, kind: bytes, block: bytes, content: int, overrides: Overrides) -> tuple[Member | None, int | None]:
        """As `_header`, of what is no file with a short name."""
        size = overrides.size(block)
        name = overrides.name or name_of(block)
        end = round_up(content + size)
        if kind in _ASIDE:
            return None, end
        if kind == b"5" or name.endswith(b"/"):
            return None, content if kind in _WITHOUT_CONTENT else end
        if kind in _WITHOUT_CONTENT:
            return _without_content(kind, name, overrides.link or until_nul(block[157:257])), content
        if kind == b"S" or overrides.is_sparse:
            return self._sparse(name, block, content, size, overrides)
        special = "the rest of a file whose start is in another tar" if kind == b"M" else None
        return Member(name, content, min(size, _MAX_SIZE), special=special), end

    def _sparse(
        self, name: bytes, block: bytes, content: int, size: int, overrides: Overrides
    ) -> tuple[Member | None, int | None]:
        end = content + size
        if block[156:157] == b"S":
            texts, start = old_sparse_map(block, self._read, content)
            end += start - content
        try:
            if block[156:157] == b"S":
                pieces, whole_size = pieces_of(texts), number(block[483:495])
            else:
                pieces, whole_size, start = pax_sparse_map(overrides, self._read, content)
        except DamagedHeaderError as error:
            return Member(name, 0, 0, special=f"a sparse file with {error}"), round_up(end)
        size = sum(length for _, length in pieces)
        ends = [0, *(position + length for position, length in pieces)]
        overlap = any(position < before for (position, _), before in zip(pieces, ends, strict=False))
        if start + size > end or ends[-1] > whole_size or overlap:
            return Member(name, 0, 0, special="a sparse file whose map is wrong"), round_up(end)
        return Member(name, start, size, pieces=pieces, whole_size=min(whole_size, _MAX_SIZE)), round_up(end)

    def _skip_zeros(self, offset: int) -> int:
        """Where the zeros that begin here end; the end of the file where that is not known."""
        first, read = offset, 0
        while offset < self._size and read < MAX_ZEROS:
            offset = max(offset, self._next_data(offset) // BLOCK * BLOCK)
            chunk = self._read(offset, min(_CHUNK, self._size - offset))
            zeros = len(chunk) - len(chunk.lstrip(b"\x00"))
            if zeros < len(chunk):
                return offset + zeros // BLOCK * BLOCK
            offset, read = offset + zeros, read + zeros
        if self._size - first > MAX_ZEROS:
            self.remark = f"{offset - first:,} bytes of zeros follow its end mark"
        if offset < self._size:
            self.remark = f"{self.remark}; the {self._size - offset:,} bytes after them are not looked at"
        return self._size

    def _next_data(self, offset: int) -> int:
        """Where the next byte is that is in no hole of the file."""
        try:
            file = self._file.fileno()
            position = os.lseek(file, 0, os.SEEK_CUR)
        except (OSError, io.UnsupportedOperation):
            return offset
        try:
            return os.lseek(file, offset, os.SEEK_DATA)
        except OSError as error:
            return self._size if error.errno == errno.ENXIO else offset
        finally:
            os.lseek(file, position, os.SEEK_SET)  # where the file's buffer believes that it is

    def _read(self, offset: int, size: int) -> bytes:
        try:
            self._file.seek(offset)  # inside the buffer of a BufferedReader where it can be
            return self._file.read(size)
        except OSError as error:
            raise ShardError(f"cannot be read at byte {offset:,}: {error}") from error


def _start_of_next(kind: bytes, first: int, offset: int, end: int) -> int:
    """Where the next member begins: with the extended headers before it, but for global ones, which are of all."""
    is_own = kind in _EXTENDED and (kind != b"g" or first < offset)
    return first if is_own else end


def _without_content(kind: bytes, name: bytes, target: bytes) -> Member:
    if kind in b"12":
        return Member(name, 0, 0, link=target, symbolic=kind == b"2")
    return Member(name, 0, 0, special="a pipe" if kind == b"6" else "a device")
