"""Pixels that stay on the GPU that decoded them, as a torch tensor. Imported only where DALI decodes on a GPU.

All copies run on one stream of the decoder's own, and the decoder's thread waits for it: a finished batch may be read
from any stream. What its readers have to see to is said at `records.Pixels`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack


class DevicePixels:
    """See `pixels.HostPixels`. `device` may be a CPU, too: the same code without streams."""

    def __init__(self, size: int, device: torch.device, stream: torch.cuda.Stream | None, num_images: int) -> None:
        """`stream` is where the copies run, None on a CPU."""
        self._stream = stream
        with torch.cuda.stream(stream):
            self._pixels = torch.zeros((num_images, 3, size, size), dtype=torch.uint8, device=device)

    def put_dali(self, rows: Sequence[int], output: Any, kept: Sequence[int]) -> None:
        """Device to device: `output` is seen through DLPack, which makes the stream wait for DALI's."""
        with torch.cuda.stream(self._stream):
            self._pixels[list(rows)] = from_dlpack(output.as_tensor())[list(kept)]
        self._synchronize()  # DALI does not know that this stream reads its buffer

    def put_host(self, rows: Sequence[int], pixels: NDArray[np.uint8]) -> None:
        """Host to device, in one piece through page-locked memory."""
        source = torch.from_numpy(pixels)
        with torch.cuda.stream(self._stream):
            if self._stream is not None:
                source = source.pin_memory().to(self._pixels.device, non_blocking=True)
            self._pixels[list(rows)] = source

    def look(self, images: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See `flat.Look`; of what was put so far. Device to host, in one piece."""
        num = rows.shape[1]
        places = torch.from_numpy(np.concatenate([images[:, None], rows, columns], axis=1))
        with torch.cuda.stream(self._stream):
            places = places.to(self._pixels.device)
            image, row, column = places[:, :1], places[:, 1 : 1 + num], places[:, 1 + num :]
            channel = torch.arange(3, device=self._pixels.device)[:, None, None]
            seen = self._pixels[image[..., None, None], channel, row[:, None, :, None], column[:, None, None, :]]
            found: NDArray[np.uint8] = seen.cpu().numpy()
        return found

    def finish(self) -> Tensor:
        """See `HostPixels`."""
        self._synchronize()
        return self._pixels

    def _synchronize(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
