"""An image as a judge takes it: in a data URI, in a format that every endpoint reads."""

import base64
import io
import math
from dataclasses import dataclass

from PIL import Image

from recap_fast.decode.gate import open_image, take_over_pillow_checks
from recap_fast.decode.pillow import decode_rgb
from recap_fast.defaults import MAX_IMAGE_PIXELS

MIME_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WebP": "image/webp", "GIF": "image/gif"}
"""The formats that endpoints take."""
MODES = ("RGB", "RGBA", "L", "LA", "P", "1")
"""Pillow's names for pixels that every decoder reads alike: no CMYK, no 16 bits."""
MAX_BYTES = 4 << 20
"""Largest image that is sent as it is; endpoints accept at least 5 MB."""
MAX_SIDE, QUALITY = 1024, 90
"""Longest side in pixels, and quality, of the JPEG that is made of any other image."""
BASE_TOKENS, TILE_TOKENS = 85, 170
"""Tokens that GPT-4o counts for an image, and for each square of 512 pixels in it."""


@dataclass(frozen=True, slots=True)
class JudgedImage:
    """An image for a judge."""

    uri: str
    width: int
    height: int

    @property
    def tokens(self) -> int:
        """About how many it takes, as OpenAI counts for GPT-4o: fit into 2,048 pixels, then the short side into 768."""
        fit = min(1.0, 2048 / max(self.width, self.height))
        fit *= min(1.0, 768 / (fit * min(self.width, self.height)))
        return BASE_TOKENS + TILE_TOKENS * math.ceil(self.width * fit / 512) * math.ceil(self.height * fit / 512)


def judged_image(data: bytes) -> JudgedImage:
    """The picture of a file as it is, without metadata such as the place where it was taken, if it is upright, still,
    of a common format and not too large; else a JPEG of it. Raises RefusedImageError.
    """
    take_over_pillow_checks()
    image, header, picture = open_image(data, MAX_IMAGE_PIXELS)
    is_plain = header.orientation == 1 and header.mode in MODES and not getattr(image, "is_animated", False)
    if header.format in MIME_TYPES and is_plain and len(picture.data) <= MAX_BYTES:
        return JudgedImage(_uri(MIME_TYPES[header.format], picture.data), header.width, header.height)
    rgb = decode_rgb(data, MAX_IMAGE_PIXELS)
    rgb.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    rgb.save(encoded, "JPEG", quality=QUALITY)
    return JudgedImage(_uri("image/jpeg", encoded.getvalue()), *rgb.size)


def _uri(mime_type: str, data: bytes) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"
