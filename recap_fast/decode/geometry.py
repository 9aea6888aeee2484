"""Where the pixels of an image go: the one definition of pad, resize and crop, in whole pixels, for every decoder.

In goes the size of an image as displayed, out come sizes and windows. The arithmetic is that of LLaVA's `pad` and of
transformers' CLIP image processor, truncation included: a decoder that rounds instead shifts every pixel. What is
stretched to a square needs none.
"""

from math import ceil
from typing import NamedTuple

from recap_fast.records import Preprocess

_REACH = {"bilinear": 1, "bicubic": 2, "lanczos": 3}


class Window(NamedTuple):
    """A rectangle in an image's pixel coordinates. It may reach beyond the image: left and top are then negative."""

    left: int
    top: int
    width: int
    height: int


def pad_window(width: int, height: int) -> Window:
    """The square of the long side around the image: LLaVA's canvas, the image at offset `(long - short) // 2`."""
    side = max(width, height)
    return Window(-((side - width) // 2), -((side - height) // 2), side, side)


def resized_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height after the short side became `size` and the long side `int(size * long / short)`."""
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def crop_window(width: int, height: int, size: int) -> Window:
    """The center square of side `size` of an image at least as large: left `(width - size) // 2`, top likewise."""
    return Window((width - size) // 2, (height - size) // 2, size, size)


def content_window(width: int, height: int, preprocess: Preprocess) -> Window:
    """Where the decoded square shows the image alone, without what pads it and what the resize mixes with that.

    Pillow's filters reach so many pixels of the larger of the two scales; one more is for rounding. The window may be
    empty: width or height is then 0.
    """
    size = preprocess.image_size
    if preprocess.mode != "pad":
        return Window(0, 0, size, size)
    side = max(width, height)
    margin = ceil(_REACH[preprocess.resample] * max(1.0, size / side)) + 1

    def inner(length: int) -> tuple[int, int]:
        if length == side:
            return 0, size
        start = (side - length) // 2
        first, last = -(-start * size // side) + margin, (start + length) * size // side - margin
        return first, max(0, last - first)

    (left, inner_width), (top, inner_height) = inner(width), inner(height)
    return Window(left, top, inner_width, inner_height)
