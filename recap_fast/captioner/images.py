"""What a caller may give as an image, and how it becomes pixels: encoded ones by the decoder, opened ones by Pillow."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recap_fast.decode.decoder import ImageDecoder, parse_color
from recap_fast.records import OK, UNREADABLE, ImageOutcome, Pixels, Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

ImageInput: TypeAlias = "str | Path | bytes | PillowImage | NDArray[np.uint8]"
"""A file's path, a file's bytes, an image of Pillow's, or an array uint8 [height, width, 3] or [height, width]."""

Decoded: TypeAlias = "tuple[Pixels | None, ImageOutcome, bytes | None]"
"""Pixels uint8 [3, size, size], or None for an image that has no caption; what became of it; its bytes if any."""


def refuse_single(images: Any) -> None:
    """Raises TypeError where the images are one image instead of several."""
    is_array = isinstance(images, np.ndarray) and images.ndim < 4
    if is_array or isinstance(images, str | bytes | bytearray | memoryview | Path | Mapping) or _is_pillow(images):
        raise TypeError(f"images is one {type(images).__name__}: give a list, such as [image].")


def check_image(image: Any) -> ImageInput:
    """The image, an array as a copy: its buffer may be used again. Raises TypeError for what is none."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise TypeError(
                f"An image is an array of {image.dtype} {list(image.shape)}: give uint8 [height, width, 3] or "
                "[height, width]."
            )
        return np.array(image)
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, str | Path | bytes) and not _is_pillow(image):
        raise TypeError(
            f"An image is a {type(image).__name__}: give a path, bytes, an image of Pillow's or an array of uint8."
        )
    checked: ImageInput = image
    return checked


def decode_images(
    images: Sequence[ImageInput],
    decoder: ImageDecoder,
    preprocess: Preprocess,
    max_image_pixels: int,
    background: str | None,
) -> list[Decoded]:
    """Decodes each image: encoded ones by `decoder`, opened ones with the same limit and background."""
    found: list[Decoded | None] = [None] * len(images)
    encoded: dict[int, bytes] = {}
    for i, image in enumerate(images):
        if isinstance(image, str | Path):
            try:
                encoded[i] = Path(image).read_bytes()
            except (OSError, ValueError) as error:  # ValueError: a zero byte or half a character in the path
                reason = error.strerror if isinstance(error, OSError) else error
                unreadable = ImageOutcome(status=UNREADABLE, error=f"{str(image)!r} cannot be read: {reason}")
                found[i] = None, unreadable, None
        elif isinstance(image, bytes):
            encoded[i] = image
        else:
            found[i] = *_preprocess(image, preprocess, max_image_pixels, background), None
    batch = decoder.decode(list(encoded.values()))
    for i, pixels, outcome in zip(encoded, batch.pixels, batch.outcomes, strict=True):
        found[i] = pixels if outcome.status == OK else None, outcome, encoded[i]
    return [each for each in found if each is not None]


def image_sha256(decoded: Decoded) -> str:
    """Hex, of an image's encoded bytes; of its pixels where it came without any, as an array or opened by Pillow."""
    pixels, _, encoded = decoded
    return hashlib.sha256(np.asarray(pixels).tobytes() if encoded is None else encoded).hexdigest()


def _is_pillow(image: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")  # what made an image of Pillow's has loaded it
    return pillow is not None and isinstance(image, pillow.Image)


def _preprocess(
    image: "PillowImage | NDArray[np.uint8]", preprocess: Preprocess, max_image_pixels: int, background: str | None
) -> "tuple[Pixels | None, ImageOutcome]":
    from PIL import Image

    from recap_fast.decode.pillow import preprocess_opened

    opened = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    return preprocess_opened(opened, preprocess, max_image_pixels, parse_color(background))
