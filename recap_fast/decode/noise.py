"""Keeps what C libraries write about damaged images off the program's standard error.

libtiff in Pillow, and libpng and libjpeg in DALI, write each of their complaints to file descriptor 2, and neither
Pillow nor DALI has a switch for it. So while images are decoded descriptor 2 leads nowhere, and what the program itself
has to say goes through a copy of it. That is for a program that owns its standard error, the command line: a library
must not take it from its host. Outside of decoding the descriptor is as it was, so that the last words of CUDA or of
glibc are seen; what other threads' libraries say at the very moment of a decoding is lost.
"""

import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

STDERR = 2
_lock = threading.Lock()
_copy: int | None = None
"""Of descriptor 2, while the program speaks through it."""
_num_dropping = 0


@contextlib.contextmanager
def own_stderr() -> Iterator[TextIO | None]:
    """Gives a stream to the standard error; meanwhile `sys.stderr` is that, and `dropped` does what it says.

    Where `sys.stderr` is not descriptor 2 (it is closed, or a test has replaced it), it stays as it is.
    """
    global _copy
    before = sys.stderr
    try:
        is_ours = before is not None and before.fileno() == STDERR
        copy = os.dup(STDERR) if is_ours else None
    except (OSError, ValueError):
        copy = None
    if copy is None:
        yield before
        return
    with open(copy, "w", buffering=1, encoding=before.encoding, errors=before.errors) as stream:  # noqa: PTH123
        _copy, sys.stderr = copy, stream
        traced = faulthandler.is_enabled()
        if traced:
            faulthandler.enable(stream)
        try:
            yield stream
        finally:
            _copy, sys.stderr = None, before
            if traced:
                faulthandler.enable(before)


@contextlib.contextmanager
def dropped() -> Iterator[None]:
    """Drops what is written to descriptor 2 meanwhile; does nothing outside of `own_stderr`."""
    if _copy is None:
        yield
        return
    _redirect(+1)
    try:
        yield
    finally:
        _redirect(-1)


def _redirect(change: int) -> None:
    """The first thread that decodes turns the descriptor away, and the last one turns it back."""
    global _num_dropping
    with _lock:
        _num_dropping += change
        if (change, _num_dropping) == (1, 1):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, STDERR)
            os.close(nowhere)
        elif _num_dropping == 0 and _copy is not None:
            os.dup2(_copy, STDERR)
