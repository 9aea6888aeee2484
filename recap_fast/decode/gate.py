"""The gate: judges an image by its structure and its header, before anything is decoded.

In go the encoded bytes, out come the opened image (nothing decoded yet) and what its header says; what cannot or must
not be decoded is refused with a status and a sentence. Statuses: empty_image, not_an_image, unsupported, truncated,
corrupt, too_large, too_small, extreme_aspect.
"""

import logging
import re
import struct
import warnings
import zlib
from dataclasses import dataclass, replace
from typing import NamedTuple

from PIL import Image, ImageFile

from recap_fast.decode.codecs import UnsupportedFormatError, open_encoded
from recap_fast.decode.formats import describe, is_cut, other_process, sniff
from recap_fast.decode.picture import Picture, picture_of, read_orientation
from recap_fast.decode.tiff import other_compression
from recap_fast.records import ImageOutcome
from recap_fast.text import message_of

MIN_SIDE_PIXELS = 2
"""A line or a single pixel (a tracker, a spacer) shows nothing that could be described."""
MAX_ASPECT = 50
"""A longer strip, padded to CLIP's 336 pixels, is thinner than half a patch of 14."""
MAX_SCANNED_PIXELS = 1 << 33
"""Pixels times scans of one JPEG. A scan without data takes 0.6 ns a pixel, so that is 5 s; encoders write 10 scans or
so, and 34 pass at 250 million pixels."""
FREE_PIXELS = 178_956_970 // 2
"""As many may come from any number of bytes: one color is a few bytes in most formats. Pillow's own limit."""
MAX_PIXELS_PER_BYTE = 10_000
"""Of larger images. One-bit PNGs reach 8,256; a photograph has 20 or less."""
_MAX_SIDE = 2**31 - 1
"""Sizes are 32-bit integers in rows; Pillow has no larger images either."""
_QUIET = logging.NullHandler()
_UNSUPPORTED = re.compile(
    r"unknown pixel mode|unrecognized image mode|not yet supported|Unsupported (codec|feature)|"
    r"cannot handle (1[0-6]-bit|[25-9]-layer)|"
    r"Unsupported BMP (pixel depth \((2|64)\)|bitfields layout|compression \([45]\))"
)
"""What decoders say of data that are whole, and of a kind that they do not decode."""

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

_STUMBLES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, struct.error)
"""Those of them that say nothing of the image."""


class RefusedImageError(Exception):
    """An image that gets no caption; `outcome` is what its row will say. A size that cannot be true is left out."""

    def __init__(self, status: str, error: str, width: int | None = None, height: int | None = None) -> None:
        super().__init__(error)
        if width is not None and height is not None and max(width, height) > _MAX_SIDE:
            width = height = None
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
    orientation: int = 1
    """Of EXIF, 1 to 8: how to turn what is decoded."""
    has_alpha: bool = False
    white_is_zero: bool = False
    """Of 16-bit greys: Pillow does not turn them over."""

    @property
    def num_pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


class Opened(NamedTuple):
    """An image that may be decoded."""

    image: ImageFile.ImageFile
    header: Header
    picture: Picture


def take_over_pillow_checks() -> None:
    """Makes the gate the only judge, process-wide: no limit and no warnings of Pillow's own.

    Pillow's limit is fixed and counts before this one does; its warnings tell of broken metadata, by the thousand.
    """
    # Pillow reads both from globals, also while it loads and crops: set around each call, they would differ by thread.
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(_QUIET)  # else what it logs of a damaged file goes to the standard error


def open_image(data: bytes, max_image_pixels: int) -> Opened:
    """Opens an image without decoding it.

    Raises RefusedImageError for everything that should not be decoded.
    """
    return open_picture(data, *read_picture(data, max_image_pixels), max_image_pixels)


def read_picture(data: bytes, max_image_pixels: int) -> tuple[str, Picture]:
    """The format of an image and the picture in it, before any decoder sees it. Raises as `open_image`."""
    if not data:
        raise RefusedImageError("empty_image", "The image has no bytes.")
    name = sniff(data)
    if name is None:
        raise RefusedImageError("not_an_image", f"The bytes are {describe(data)}, not an image.")
    picture = picture_of(name, data)
    if picture.size is not None:
        _check_size(*picture.size, max_image_pixels)
        _check_cost(name, data, picture, *picture.size)
    return name, picture


def open_picture(data: bytes, name: str, picture: Picture, max_image_pixels: int) -> Opened:
    """Opens what `read_picture` gave for these bytes. Raises as `open_image`."""
    try:
        image = open_encoded(name, picture.data)
    except UnsupportedFormatError as error:
        raise RefusedImageError("unsupported", str(error)) from error
    except MemoryError as error:
        raise RefusedImageError("too_large", f"Not enough memory to open the {name} image.") from error
    except PILLOW_ERRORS as error:
        raise damaged(name, data, error) from error
    header = check_opened(image, name, max_image_pixels, picture.orientation)
    header = replace(header, white_is_zero=header.white_is_zero or picture.white_is_zero)
    _check_cost(name, data, picture, header.width, header.height)
    return Opened(image, header, picture)


def check_opened(image: Image.Image, name: str, max_image_pixels: int, orientation: int | None = None) -> Header:
    """The header of an opened image of format `name`. Raises RefusedImageError for a size that is not decoded.

    `orientation` is EXIF's; None: what the image says.
    """
    orientation = _orientation_of(image, name) if orientation is None else orientation
    width, height = image.size if orientation < 5 else image.size[::-1]
    _check_size(width, height, max_image_pixels)
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    tags = getattr(
        image, "tag_v2", None
    )  # of TIFFs; 262 is PhotometricInterpretation, 0 for Pillow where it is missing
    white_is_zero = tags is not None and tags.get(262, 0) == 0
    return Header(name, image.mode, width, height, orientation, has_alpha, white_is_zero)


def _orientation_of(image: Image.Image, name: str) -> int:
    """1 where the decoder turns the image by itself: TIFF by Pillow, JPEG XL by its own header, EXIF or not.

    But a JPEG that was made a JPEG XL comes back as that JPEG.
    """
    if name == "JPEG XL" and not getattr(image, "jpeg", False):
        return 1
    return read_orientation(image.info.get("exif"))


def damaged(
    name: str, data: bytes, error: BaseException, width: int | None = None, height: int | None = None
) -> RefusedImageError:
    """The refusal of an image of format `name` that its decoder failed on: unsupported, truncated or corrupt.

    `data` is empty for an image that the caller has opened.
    """
    other = _other_coding(name, data)
    reason = other or message_of(error).rstrip(" .") or type(error).__name__
    if other or _UNSUPPORTED.search(reason):
        return RefusedImageError("unsupported", f"This kind of {name} is not decoded: {reason}.", width, height)
    if isinstance(error.__cause__ or error, _STUMBLES):  # Pillow makes a SyntaxError of what its plugins stumble over
        reason = "it is not what its first bytes say"
    if (data and is_cut(name, data)) or "truncated" in reason.lower():
        return RefusedImageError("truncated", f"The {name} data ends before the image does.", width, height)
    return RefusedImageError("corrupt", f"The {name} data is damaged: {reason}.", width, height)


def _other_coding(name: str, data: bytes) -> str | None:
    """Of a file that no decoder here takes, what it is coded in."""
    if name == "TIFF" and (compression := other_compression(data)):
        return f"its compression is {compression}"
    if name == "JPEG" and (process := other_process(data)):
        return f"its coding is {process}"
    return None


def _check_cost(name: str, data: bytes, picture: Picture, width: int, height: int) -> None:
    """Raises RefusedImageError where decoding cannot end well, or takes longer than any image of such a size does."""
    num_pixels, size = width * height, f"{width} x {height} pixels"
    if num_pixels > picture.max_pixels:
        message = f"The {name} data ends before the image does: there is too little of it for {size}."
        raise RefusedImageError("truncated", message, width, height)
    if num_pixels > FREE_PIXELS and num_pixels > MAX_PIXELS_PER_BYTE * len(data):
        message = f"{size} in {len(data)} bytes are more than {MAX_PIXELS_PER_BYTE} a byte."
        raise RefusedImageError("too_large", message, width, height)
    if num_pixels * picture.num_scans > MAX_SCANNED_PIXELS:
        message = f"{size} in {picture.num_scans} scans would take minutes to decode."
        raise RefusedImageError("too_large", message, width, height)


def _check_size(width: int, height: int, max_image_pixels: int) -> None:
    size = f"{width} x {height} pixels"
    if max(width, height) > _MAX_SIDE:
        raise RefusedImageError("too_large", f"{size}: no image is that large.", width, height)
    if width * height > max_image_pixels:
        message = f"{size} are more than the {max_image_pixels} that --max-image-pixels allows."
        raise RefusedImageError("too_large", message, width, height)
    if min(width, height) < MIN_SIDE_PIXELS:
        message = f"{size}: a side under {MIN_SIDE_PIXELS} pixels shows nothing."
        raise RefusedImageError("too_small", message, width, height)
    if max(width, height) > MAX_ASPECT * min(width, height):
        message = f"{size}: one side is more than {MAX_ASPECT} times the other."
        raise RefusedImageError("extreme_aspect", message, width, height)
