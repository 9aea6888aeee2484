"""Finds images of one color among those that were decoded: a picture that is missing is often a grey or white area.

Outcomes and a way to look at pixels go in, the outcomes with `is_flat` come out. A few pixels of every image settle
nearly all of them; the others are looked at whole. Where the pixels lie on a GPU, that is one small copy for a batch,
and a second one if it has such images.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recap_fast.decode.geometry import content_window
from recap_fast.records import OK, ImageOutcome, Preprocess

MAX_SPREAD = 8
"""Of 255 levels, by how much each channel of an image of one color may vary: JPEG leaves 2 or 3 after a few rounds."""
GRID = 16
"""So many rows and columns are looked at first."""
Look = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.uint8]]
"""The pixels [n, 3, h, w] of images [n] of a batch, each at its own rows [n, h] and columns [n, w], in host memory."""


def mark_flat(outcomes: Sequence[ImageOutcome], preprocess: Preprocess, look: Look) -> tuple[ImageOutcome, ...]:
    """The outcomes, one for each image of a batch, with what its pixels say of `is_flat`.

    Only the image counts and not what pads it. One too narrow for that, at 40:1 or so, is not taken for flat.
    """
    windows = np.zeros((len(outcomes), 4), np.int64)
    for number, outcome in enumerate(outcomes):
        if outcome.status == OK and outcome.width and outcome.height:
            windows[number] = content_window(outcome.width, outcome.height, preprocess)
    images = np.flatnonzero((windows[:, 2:] > 0).all(axis=1))
    for num in (GRID, preprocess.image_size):
        if len(images):
            left, top, width, height = windows[images].T[..., None]
            steps = np.arange(num)
            pixels = look(images, top + steps * height // num, left + steps * width // num)
            spread = pixels.max(axis=(2, 3)) - pixels.min(axis=(2, 3))
            images = images[(spread <= MAX_SPREAD).all(axis=1)]
    flat = set(images.tolist())
    return tuple(replace(each, is_flat=True) if i in flat else each for i, each in enumerate(outcomes))
