"""Notices another process that is at work on the same shards of an output folder.

Each process has a lock on a file named after its shards, which the system takes back however the process ends. It keeps
nobody out, and where the file system has no locks nothing is noticed.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence

from recap_fast.atomic import make_folder
from recap_fast.records import Shard
from recap_fast.write.output_folder import OutputFolder

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def at_work(output: OutputFolder, shards: Sequence[Shard]) -> Iterator[None]:
    """Lets other processes know that this one is at work on these shards; warns if another one is already."""
    names = "\n".join(shard.name for shard in shards).encode("utf-8", "surrogatepass")
    path = output.decoding / f"{hashlib.sha256(names).hexdigest()[:16]}.lock"
    try:
        make_folder(output.decoding, output.store.scratch)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # what cannot be written is for the rows to find out
        yield
        return
    try:
        if not _is_alone(descriptor):
            logger.warning(
                "another process is at work on the same shards of %s, so images are captioned twice: stop one of the "
                "two, or give each its own --part.",
                output.address,
            )
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        if _is_alone(descriptor):
            with contextlib.suppress(OSError):  # gone with its folder, or notes of others are there
                path.unlink()
                output.decoding.rmdir()
        os.close(descriptor)


def _is_alone(descriptor: int) -> bool:
    """Whether no other process is known to have a lock on the file; this one then has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        pass
    return True
