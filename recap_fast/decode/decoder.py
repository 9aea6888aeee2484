"""The decode stage: encoded image bytes in, an `ImageBatch` of uint8 pixels out, by a decoder chosen by name.

A decoder never raises for what the bytes are: a bad image gets zeros for pixels and an outcome that says why.
"""

from collections.abc import Sequence
from typing import Protocol

from recap_fast.defaults import MAX_IMAGE_PIXELS
from recap_fast.errors import ConfigError
from recap_fast.records import ImageBatch, Preprocess

DECODERS = ("auto", "dali", "pillow")
DALI_PACKAGE = "nvidia-dali-cuda130"


class ImageDecoder(Protocol):
    """Turns encoded images into pixels. Meant for one thread; it has threads of its own."""

    name: str
    """'dali' or 'pillow'."""
    note: str | None
    """What the user should know of the choice: why it is not DALI."""
    num_fallbacks: int
    """Images so far that the decoder left to Pillow."""

    def decode(self, images: Sequence[bytes], *, only_pillow: bool = False) -> ImageBatch:
        """Decodes any number of images, in order; raises for none.

        `only_pillow` is for images that may have ended a process before.
        """

    def close(self) -> None:
        """Frees threads and buffers."""


def make_decoder(
    name: str,
    preprocess: Preprocess,
    *,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    num_threads: int = 1,
    device_id: int | None = None,
    background: str | None = None,
) -> ImageDecoder:
    """Makes the decoder `name`, one of DECODERS.

    `device_id` is the GPU that DALI decodes on; None for the CPU. 'auto' is DALI on a GPU where it is installed and
    works, else Pillow: on a CPU Pillow is the faster one, and its pixels are the reference. `background` is a color's
    name or '#rrggbb', for what is transparent; without it, alpha is dropped. Raises ConfigError for a name that is not
    known, a number below 1, and DALI asked for where it cannot be had.
    """
    if name not in DECODERS:
        raise ConfigError(f"--decoder is {name!r}; it must be one of {', '.join(DECODERS)}.")
    if max_image_pixels < 1:
        raise ConfigError(f"--max-image-pixels is {max_image_pixels}; it must be at least 1.")
    if num_threads < 1:
        raise ConfigError(f"The number of decoder threads is {num_threads}; it must be at least 1.")
    color = parse_color(background)
    note = None
    if name == "dali" or (name == "auto" and device_id is not None):
        try:
            from recap_fast.decode.dali import DaliDecoder

            return DaliDecoder(
                preprocess,
                max_image_pixels=max_image_pixels,
                num_threads=num_threads,
                device_id=device_id,
                background=color,
            )
        except ImportError as error:
            note = f"NVIDIA DALI cannot be imported ({error}); install it with `pip install {DALI_PACKAGE}`."
        except (OSError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            note = f"NVIDIA DALI does not work here: {reason}"
    if name == "dali":
        raise ConfigError(f"{note} Or let Pillow decode: --decoder pillow.")
    from recap_fast.decode.pillow import PillowDecoder

    if note:
        note = f"Pillow decodes: {note}"
    return PillowDecoder(
        preprocess, max_image_pixels=max_image_pixels, num_threads=num_threads, background=color, note=note
    )


def parse_color(text: str | None) -> tuple[int, int, int] | None:
    """A color of `--background`, as Pillow reads it: red, green and blue. Raises ConfigError for what is none."""
    from PIL import ImageColor

    if text is None:
        return None
    try:
        color = ImageColor.getrgb(text)
    except ValueError as error:
        raise ConfigError(f"--background {text}: give a color's name, such as white, or '#rrggbb'.") from error
    if len(color) != 3:
        raise ConfigError(f"--background {text}: give a color without alpha, such as white or '#rrggbb'.")
    return color
