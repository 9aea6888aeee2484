"""Headers of members that are written anew, made from those of members beside them: mode, owner and time stay.

Formats: POSIX.1-1988 "ustar", and GNU's long names (GNU tar manual, "Basic Tar Format").
"""

from recap_fast.shards.tar.headers import BLOCK, number, sum_of

MAX_NAME_BYTES = 100
"""A longer name has a header of its own before it."""
_MAX_OCTAL = 8**11


def member(name: bytes, content: bytes, like: bytes) -> bytes:
    """A whole plain file: headers, content and what fills its last block. `like` is another member's header block."""
    if len(name) <= MAX_NAME_BYTES:
        return b"".join((_block(name, b"0", len(content), like), content, padding(len(content))))
    long = name + b"\0"
    headers = _block(b"././@LongLink", b"L", len(long), like), long, padding(len(long))
    return b"".join((*headers, _block(name[:MAX_NAME_BYTES], b"0", len(content), like), content, padding(len(content))))


def with_content(headers: bytes, old_size: int, content: bytes) -> bytes | None:
    """A member with another content behind its own headers, in which only size and checksum change.

    `headers` are all that stand before the content, of `old_size` bytes. None if they say more of the content than its
    size, as those of links and sparse files do.
    """
    block = headers[-BLOCK:]
    if (
        block[156:157] not in b"0\0"
        or b" size=" in headers
        or b"GNU.sparse" in headers
        or number(block[124:136]) != old_size
    ):
        return None
    return b"".join(
        (headers[:-BLOCK], _with_sum(block[:124] + _octal(len(content)) + block[136:]), content, padding(len(content)))
    )


def padding(size_bytes: int) -> bytes:
    """The zeros behind a content, up to a whole block."""
    return bytes(-size_bytes % BLOCK)


def _block(name: bytes, kind: bytes, size: int, like: bytes) -> bytes:
    magic = like[257:265] if like[257:262] == b"ustar" else b"ustar\x0000"
    owner = like[265:329] if like[257:262] == b"ustar" else bytes(64)
    fields = (
        name.ljust(100, b"\0"),
        like[100:124],
        _octal(size),
        like[136:148],
        bytes(8),
        kind,
        bytes(100),
        magic,
        owner,
    )
    return _with_sum(b"".join(fields).ljust(BLOCK, b"\0"))


def _octal(size: int) -> bytes:
    assert size < _MAX_OCTAL, size
    return b"%011o\0" % size


def _with_sum(block: bytes) -> bytes:
    total = sum_of(block) - sum(block[148:156]) + 8 * ord(" ")
    return block[:148] + b"%06o\0 " % total + block[156:]
