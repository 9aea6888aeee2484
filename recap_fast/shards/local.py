"""Local files, opened so that no pipe or device is waited for, and read so that whoever waits sees progress."""

import errno
import io
import os
import stat
from typing import Any

from recap_fast.shards.patience import progress

STEP_BYTES = 8 << 20
"""Of a large file, after which whoever waits sees progress."""
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NoFileError(OSError):
    """What has the name of a file is a folder, a pipe, a socket or a device."""


def open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """A regular file, without a buffer. Raises OSError, and NoFileError where it is something else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        kind = _kind(os.stat(path).st_mode)  # noqa: PTH116 - a socket cannot be opened
        raise (NoFileError(f"it is {kind}, not a file") if kind else error) from error
    if kind := _kind(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NoFileError(f"it is {kind}, not a file")
    return _WatchedFile(descriptor, "rb")


def read_whole(file: io.FileIO, size_bytes: int) -> bytes:
    """What a file of so many bytes has, or less where it has become shorter."""
    content = bytearray(size_bytes)
    view, position = memoryview(content), 0
    while num_bytes := file.readinto(view[position : position + STEP_BYTES]):
        position += num_bytes
    return bytes(view[:position])


def is_absent(error: Exception) -> bool:
    """Whether an error says that a file is not there, or that its name is too long to be; fsspec's have no errno."""
    return isinstance(error, FileNotFoundError) or getattr(error, "errno", None) in _ABSENT


def _kind(mode: int) -> str | None:
    """What it is where it is not a regular file."""
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")


class _WatchedFile(io.FileIO):
    def readinto(self, buffer: Any) -> int | None:
        num_bytes = super().readinto(buffer)
        progress()
        return num_bytes
