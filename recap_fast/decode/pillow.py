"""The reference decoder: encoded bytes in, the pixels of LLaVA's and transformers' image processors out, bit for bit.

Pillow decodes, converts and resizes in a pool of threads (it releases the GIL). As in the reference, `convert("RGB")`
drops alpha instead of blending it (unless a background is given), and palettes and CMYK become RGB without color
management. Two things the reference leaves out are done: EXIF orientation is applied, and 16-bit greys are scaled where
Pillow would clip them to white. Only JPEGs above Pillow's own limit of pixels are decoded at a fraction of their size.
"""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recap_fast.decode import memory, noise
from recap_fast.decode.flat import mark_flat
from recap_fast.decode.gate import (
    FREE_PIXELS,
    PILLOW_ERRORS,
    Header,
    Opened,
    RefusedImageError,
    check_opened,
    damaged,
    open_image,
    open_picture,
    read_picture,
    take_over_pillow_checks,
)
from recap_fast.decode.geometry import crop_window, pad_window, resized_size
from recap_fast.decode.pixels import look
from recap_fast.records import ImageBatch, ImageOutcome, Preprocess

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation (TIFF 6.0, tag 274)."""
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
_MAX_STRIP_PIXELS = 1 << 24
Color: TypeAlias = tuple[int, int, int]


class PillowDecoder:
    """Decodes on the CPU with Pillow; see `decoder.ImageDecoder`."""

    name = "pillow"
    num_fallbacks = 0

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        max_image_pixels: int,
        num_threads: int,
        background: Color | None = None,
        note: str | None = None,
    ) -> None:
        take_over_pillow_checks()
        self.note = note
        self._preprocess = preprocess
        self._max_image_pixels, self._background = max_image_pixels, background
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="pillow")

    def decode(self, images: Sequence[bytes], *, only_pillow: bool = False) -> ImageBatch:
        """Decodes each image; a bad one leaves zeros and its outcome, and never raises."""
        size = self._preprocess.image_size
        pixels = np.zeros((len(images), 3, size, size), np.uint8)
        with noise.dropped():
            outcomes = list(self._threads.map(self._decode_image, pixels, images))
        return ImageBatch(pixels, mark_flat(outcomes, self._preprocess, partial(look, pixels)))

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()

    def _decode_image(self, pixels: NDArray[np.uint8], data: bytes) -> ImageOutcome:
        try:
            name, picture = read_picture(data, self._max_image_pixels)
            width, height = picture.size or (0, 0)
            with memory.holding(width * height):  # of those that are decoded, or get their memory, on opening
                opened = open_picture(data, name, picture, self._max_image_pixels)
                return self._decode_opened(pixels, opened, 0 if picture.size else opened.header.num_pixels, data)
        except RefusedImageError as error:
            return error.outcome

    def _decode_opened(self, pixels: NDArray[np.uint8], opened: Opened, num_pixels: int, data: bytes) -> ImageOutcome:
        scale = _reduce(opened)
        with memory.holding(num_pixels // scale**2):
            image, outcome = _decode(opened, scale, data, self._background)
            pixels[:] = preprocess_image(image, self._preprocess).transpose(2, 0, 1)
        return outcome


def decode_rgb(data: bytes, max_image_pixels: int, background: Color | None = None) -> Image.Image:
    """Decodes an image (the first frame, where it moves) to an upright RGB image.

    `background` is the color behind what is transparent; without it, alpha is dropped. Raises RefusedImageError for
    what cannot be decoded.
    """
    opened = open_image(data, max_image_pixels)
    return _decode(opened, _reduce(opened), data, background)[0]


def preprocess_opened(
    image: Image.Image, preprocess: Preprocess, max_image_pixels: int, background: Color | None = None
) -> tuple[NDArray[np.uint8] | None, ImageOutcome]:
    """An image that is opened already, as pixels uint8 [3, size, size], by the rules for one in bytes."""
    take_over_pillow_checks()
    try:
        header = check_opened(image, image.format or "The", max_image_pixels)
        with _refusing(header, b""):
            image.load()
        header = check_opened(image, header.format, max_image_pixels)  # a PNG may have its EXIF data behind the pixels
        rgb = _to_upright_rgb(image, header, b"", background)
    except RefusedImageError as error:
        return None, error.outcome
    pixels = np.ascontiguousarray(preprocess_image(rgb, preprocess).transpose(2, 0, 1))
    return pixels, ImageOutcome(rgb.width, rgb.height)


def _reduce(opened: Opened) -> int:
    """Has a JPEG of more pixels than Pillow's limit decoded at a fraction of its size, which is returned: 1, 2, 4 or 8.

    libjpeg then computes the smaller image from the first coefficients of each block.
    """
    image, header, _ = opened
    scale = 1
    while header.format == "JPEG" and scale < 8 and header.num_pixels > FREE_PIXELS * scale**2:
        scale *= 2
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    return scale


def _decode(opened: Opened, scale: int, data: bytes, background: Color | None) -> tuple[Image.Image, ImageOutcome]:
    """The upright RGB image, `scale` times smaller than its outcome says, and that outcome."""
    rgb = _to_upright_rgb(opened.image, opened.header, data, background)
    if scale == 1:
        return rgb, ImageOutcome(rgb.width, rgb.height)
    warning = f"the image was decoded at 1/{scale} scale"
    return rgb, ImageOutcome(opened.header.width, opened.header.height, warning=warning)


def preprocess_image(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """An RGB image as the vision tower takes it, before it is normalized: uint8 [size, size, 3]."""
    size, resample = preprocess.image_size, _RESAMPLING[preprocess.resample]
    if preprocess.mode == "pad":
        return np.asarray(_pad_and_resize(image, size, preprocess.pad_color, resample))
    if preprocess.mode == "stretch":
        return np.asarray(image.resize((size, size), resample))
    resized = image.resize(resized_size(*image.size, size), resample)
    window = crop_window(*resized.size, size)
    return np.asarray(resized.crop((window.left, window.top, window.left + size, window.top + size)))


def _pad_and_resize(image: Image.Image, size: int, color: Color, resample: Image.Resampling) -> Image.Image:
    """Pads to a square and resizes it, without ever holding the square: a long panorama's would take gigabytes.

    Pillow resizes rows first and then columns, rounding to uint8 between. So the rows may be resized strip by strip,
    and those of plain color need not be at all: every pixel is the same as that of the whole square.
    """
    window = pad_window(*image.size)
    narrow = Image.new("RGB", (size, window.height), color)
    rows = max(1, _MAX_STRIP_PIXELS // window.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if image.width < window.width:
            canvas = Image.new("RGB", (window.width, strip.height), color)
            canvas.paste(strip, (-window.left, 0))
            strip = canvas
        narrow.paste(strip.resize((size, strip.height), resample), (0, top - window.top))
    return narrow.resize((size, size), resample)


def _to_upright_rgb(image: Image.Image, header: Header, data: bytes, background: Color | None) -> Image.Image:
    with _refusing(header, data):
        image.load()
        rgb = _to_rgb(image, header, background)
        return rgb.transpose(_UPRIGHT[header.orientation]) if header.orientation in _UPRIGHT else rgb


@contextlib.contextmanager
def _refusing(header: Header, data: bytes) -> Iterator[None]:
    """Makes a RefusedImageError of whatever Pillow raises of an image."""
    try:
        yield
    except MemoryError as error:
        message = f"Not enough memory for {header.width} x {header.height} pixels."
        raise RefusedImageError("too_large", message, header.width, header.height) from error
    except PILLOW_ERRORS as error:
        raise damaged(header.format, data, error, header.width, header.height) from error


def _to_rgb(image: Image.Image, header: Header, background: Color | None) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and header.format == "PPM"):
        return _scale_16_bits(image, header, background)
    if mode in ("I", "F", "LAB"):
        lack = "a conversion to RGB" if mode == "LAB" else "a defined range of brightness"
        message = f"{header.format} images of Pillow's mode {mode} lack {lack}."
        raise RefusedImageError("unsupported", message, header.width, header.height)
    if header.format == "PNG" and mode == "P" and image.palette is None:
        message = "The PNG data is damaged: it has no palette for its colors."  # Pillow makes them black
        raise RefusedImageError("corrupt", message, header.width, header.height)
    if background is not None and header.has_alpha:
        canvas = Image.new("RGBA", image.size, (*background, 255))
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _scale_16_bits(image: Image.Image, header: Header, background: Color | None) -> Image.Image:
    """A 16-bit grey image as RGB: Pillow would clip it."""
    values = np.asarray(image)
    grey = np.rint(values.astype(np.float32) / 257).astype(np.uint8)
    if header.white_is_zero:
        grey = 255 - grey
    rgb = np.asarray(Image.fromarray(grey).convert("RGB"))
    clear = image.info.get("transparency")
    if background is not None and isinstance(clear, int):
        rgb = np.where((values == clear)[..., None], np.array(background, np.uint8), rgb)
    return Image.fromarray(rgb)
