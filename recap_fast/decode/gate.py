"""The gate: judges an image by its header, before anything is decoded.

In go the encoded bytes, out come the opened image (nothing decoded yet) and what its header says; what cannot or must
not be decoded is refused with a status and a sentence. Statuses: empty_image, not_an_image, unsupported, truncated,
corrupt, too_large, too_small, extreme_aspect.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from recap_fast.decode.formats import PILLOW_FORMATS, describe, is_cut, sniff, webp_size
from recap_fast.records import ImageOutcome

MIN_SIDE_PIXELS = 2
"""A line or a single pixel (a tracker, a spacer) shows nothing that could be described."""
MAX_ASPECT = 50
"""A longer strip, padded to CLIP's 336 pixels, is thinner than half a patch of 14."""

PILLOW_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's plugins raise for damaged bytes: they have no error class of their own."""


class RefusedImageError(Exception):
    """An image that gets no caption; `outcome` is what its row will say."""

    def __init__(self, status: str, error: str, width: int | None = None, height: int | None = None) -> None:
        super().__init__(error)
        self.outcome = ImageOutcome(width, height, status, error)


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an image before it is decoded. Width and height in pixels as displayed (EXIF applied)."""

    format: str
    """As `formats.sniff` names it."""
    mode: str
    """Pillow's mode, e.g. 'RGB', 'L', 'CMYK', 'I;16'."""
    width: int
    height: int


def take_over_pillow_checks() -> None:
    """Makes the gate the only judge, process-wide: no limit and no warnings of Pillow's own.

    Pillow's limit is fixed and counts before this one does; its warnings tell of broken metadata, by the thousand.
    """
    # Pillow reads both from globals, also while it loads and crops: set around each call, they would differ by thread.
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")


def open_image(data: bytes, max_image_pixels: int) -> tuple[ImageFile.ImageFile, Header]:
    """Opens an image without decoding it.

    Raises RefusedImageError for everything that should not be decoded.
    """
    if not data:
        raise RefusedImageError("empty_image", "The image has no bytes.")
    name = sniff(data)
    if name is None:
        raise RefusedImageError("not_an_image", f"The bytes are {describe(data)}, not an image.")
    if name not in PILLOW_FORMATS:
        raise RefusedImageError("unsupported", f"{name} images are not decoded.")
    if name == "WebP" and (size := webp_size(data)):
        _check_size(*size, max_image_pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=[PILLOW_FORMATS[name]])
    except MemoryError as error:
        raise RefusedImageError("too_large", f"Not enough memory to open the {name} image.") from error
    except PILLOW_ERRORS as error:
        raise damaged(name, data, error) from error
    return image, check_opened(image, name, max_image_pixels)


def check_opened(image: Image.Image, name: str, max_image_pixels: int) -> Header:
    """The header of an opened image of format `name`. Raises RefusedImageError for a size that is not decoded."""
    orientation = read_orientation(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    _check_size(width, height, max_image_pixels)
    return Header(name, image.mode, width, height)


def read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, it is broken, or Pillow applies it by itself (TIFF)."""
    data = image.info.get("exif")
    if not data:
        return 1
    exif = Image.Exif()
    try:
        exif.load(data)
        value = exif.get(ExifTags.Base.Orientation)
    except PILLOW_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def damaged(
    name: str, data: bytes, error: BaseException, width: int | None = None, height: int | None = None
) -> RefusedImageError:
    """The refusal of an image of format `name` that Pillow failed on: truncated without its end, else corrupt.

    `data` is empty for an image that the caller has opened.
    """
    reason = "it is not what its first bytes say" if isinstance(error, UnidentifiedImageError) else str(error)
    if (data and is_cut(name, data)) or "truncated" in reason.lower():
        return RefusedImageError("truncated", f"The {name} data ends before the image does.", width, height)
    reason = reason.rstrip(".") or type(error).__name__
    return RefusedImageError("corrupt", f"The {name} data is damaged: {reason}.", width, height)


def _check_size(width: int, height: int, max_image_pixels: int) -> None:
    size = f"{width} x {height} pixels"
    if width * height > max_image_pixels:
        message = f"{size} are more than the {max_image_pixels} that --max-image-pixels allows."
        raise RefusedImageError("too_large", message, width, height)
    if min(width, height) < MIN_SIDE_PIXELS:
        message = f"{size}: a side under {MIN_SIDE_PIXELS} pixels shows nothing."
        raise RefusedImageError("too_small", message, width, height)
    if max(width, height) > MAX_ASPECT * min(width, height):
        message = f"{size}: one side is more than {MAX_ASPECT} times the other."
        raise RefusedImageError("extreme_aspect", message, width, height)
