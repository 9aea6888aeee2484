"""Where the pixels of a batch live: here in host memory, in `device_pixels` on the GPU that decoded them.

DALI fills its output buffers anew in every run and a batch lives longer than that: both copy into memory of their own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class HostPixels:
    """The pixels of one batch while they are put together: uint8 [n, 3, size, size], zero until something is put."""

    def __init__(self, size: int, num_images: int) -> None:
        self._pixels = np.zeros((num_images, 3, size, size), np.uint8)

    def put_dali(self, rows: Sequence[int], output: Any, kept: Sequence[int]) -> None:
        """Copies image `kept[i]` of a DALI run's output, uint8 [m, 3, size, size], to row `rows[i]`.

        DALI may take the output's memory back once this has returned.
        """
        source = output.as_array()
        for row, index in zip(rows, kept, strict=True):
            self._pixels[row] = source[index]

    def put_host(self, rows: Sequence[int], pixels: NDArray[np.uint8]) -> None:
        """Copies image i of `pixels`, uint8 [m, 3, size, size], to row `rows[i]`."""
        self._pixels[rows] = pixels

    def look(self, images: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See `flat.Look`; of what was put so far."""
        return look(self._pixels, images, rows, columns)

    def finish(self) -> NDArray[np.uint8]:
        """The whole batch, once everything in it is complete. Nothing is put any more."""
        return self._pixels


def look(
    pixels: NDArray[np.uint8], images: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """See `flat.Look`; `pixels` is the batch, [n, 3, size, size]."""
    places = zip(images, rows, columns, strict=True)
    return np.stack([pixels[image].take(row, axis=1).take(column, axis=2) for image, row, column in places])
