"""Bounds the memory of the images that are being decoded at once, over all threads of the process.

Pillow keeps 4 bytes a pixel, and conversions two or three images for a moment: an image of 250 million pixels may take
3 GB, and is decoded alone.
"""

import contextlib
import threading
from collections.abc import Iterator

MAX_PIXELS = 1 << 27
"""Of all images that are being decoded at once, unless it is one alone."""
_changed = threading.Condition()
_held = 0


@contextlib.contextmanager
def holding(num_pixels: int) -> Iterator[None]:
    """Waits until there is room for an image of so many pixels, and keeps it meanwhile; 0 never waits."""
    global _held
    with _changed:
        _changed.wait_for(lambda: not _held or not num_pixels or _held + num_pixels <= MAX_PIXELS)
        _held += num_pixels
    try:
        yield
    finally:
        with _changed:
            _held -= num_pixels
            _changed.notify_all()
