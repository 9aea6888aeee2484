"""What a caller may give as an image, and how it becomes pixels: encoded ones by the decoder, opened ones by Pillow."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recap_fast.decode.decoder import ImageDecoder
from recap_fast.records import OK, UNREADABLE, ImageOutcome, Pixels, Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

ImageInput: TypeAlias = "str | Path | bytes | PillowImage | NDArray[np.uint8]"
"""A file's path, a file's bytes, an image of Pillow's, or an array uint8 [height, width, 3] or [height, width]."""

Decoded: TypeAlias = "tuple[Pixels | None, ImageOutcome]"
"""Pixels uint8 [3, size, size], or None for an image that has no caption; and what became of it."""


def decode_images(
    images: Sequence[ImageInput], decoder: ImageDecoder, preprocess: Preprocess, max_image_pixels: int
) -> list[Decoded]:
    """Decodes each image. Raises TypeError for what is no image at all."""
    found: list[Decoded | None] = [None] * len(images)
    encoded: dict[int, bytes] = {}
    for i, image in enumerate(images):
        if isinstance(image, str | Path):
            try:
                encoded[i] = Path(image).read_bytes()
            except OSError as error:
                found[i] = None, ImageOutcome(status=UNREADABLE, error=f"{image} cannot be read: {error.strerror}")
        elif isinstance(image, bytes | bytearray | memoryview):
            encoded[i] = bytes(image)
        else:
            found[i] = _convert(image, preprocess, max_image_pixels)
    batch = decoder.decode(list(encoded.values()))
    for i, pixels, outcome in zip(encoded, batch.pixels, batch.outcomes, strict=True):
        found[i] = pixels if outcome.status == OK else None, outcome
    return [each for each in found if each is not None]


def _convert(image: Any, preprocess: Preprocess, max_image_pixels: int) -> Decoded:
    from PIL import Image

    from recap_fast.decode.pillow import preprocess_opened

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise TypeError(
                f"An image is an array of {image.dtype} {list(image.shape)}: give uint8 [height, width, 3] or "
                "[height, width]."
            )
        image = Image.fromarray(np.ascontiguousarray(image))
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"An image is a {type(image).__name__}: give a path, bytes, an image of Pillow's or an array of uint8."
        )
    return preprocess_opened(image, preprocess, max_image_pixels)
