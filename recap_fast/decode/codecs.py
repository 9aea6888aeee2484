"""What opens each format: a plugin of Pillow's own, or one that an extra of ours installs.

The plugins of extras are called by name. Importing pillow-heif registers nothing with Pillow; pillow-jxl-plugin has no
way to be imported without registering itself.
"""

import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFile

from recap_fast.decode.formats import PILLOW_FORMATS

_MODULES = {name: name.capitalize() for name in PILLOW_FORMATS}
_MODULES |= {"DIB": "Bmp", "JPEG 2000": "Jpeg2K", "WebP": "WebP"}
"""Of Pillow's plugin for each format."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """What opens a format that Pillow alone does not."""

    package: str
    """As pip installs it."""
    module: str
    name: str
    """Of its class in the module."""

    def load(self) -> Callable[..., Any]:
        """The class. Raises ImportError where the package is not installed."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.name)
        return found


EXTRA_PLUGINS = {
    "HEIC": Plugin("pillow-heif", "pillow_heif.as_plugin", "HeifImageFile"),
    "JPEG XL": Plugin("pillow-jxl-plugin", "pillow_jxl.JpegXLImagePlugin", "JXLImageFile"),
}


class UnsupportedFormatError(Exception):
    """There is nothing here that opens the format; the message is a sentence."""


def open_encoded(name: str, data: bytes) -> ImageFile.ImageFile:
    """Opens the bytes of a file of format `name`, as `formats.sniff` gives it.

    Raises UnsupportedFormatError, and for damaged data what the plugin raises; `Image.open` would hide the reason.
    """
    plugin = _plugin(name)
    try:
        image: ImageFile.ImageFile = plugin(io.BytesIO(data), "")
    except BaseException as error:
        # of the JPEG XL plugin: what pyo3 makes of a panic, which is no Exception, and a text about building libjxl
        if type(error).__name__ == "PanicException" or (name == "JPEG XL" and isinstance(error, RuntimeError)):
            raise OSError("its decoder gave up") from error
        raise
    return image


def _plugin(name: str) -> Callable[..., Any]:
    if name in PILLOW_FORMATS:
        importlib.import_module(f"PIL.{_MODULES[name]}ImagePlugin")
        return Image.OPEN[PILLOW_FORMATS[name]][0]
    if name not in EXTRA_PLUGINS:
        raise UnsupportedFormatError(f"{name} images are not decoded.")
    plugin = EXTRA_PLUGINS[name]
    try:
        return plugin.load()
    except ImportError as error:
        raise UnsupportedFormatError(f"{name} images need a plugin: pip install {plugin.package} ({error}).") from error
