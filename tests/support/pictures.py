"""Pictures for the tests of decode/: natural-like and drawn ones, encoded in every way that shards hold."""

import io
import struct
import zlib

import numpy as np
import scenes
from PIL import Image

from recap_fast.records import Preprocess

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PAD = Preprocess(336, "pad", MEAN, STD)
CROP = Preprocess(336, "crop", MEAN, STD)


def natural(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth noise of several scales, strongest at the coarsest, as photographs have it."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(1, 8):
        cells = rng.integers(0, 256, (2**octave, 2**octave, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)) / 2 ** (
            0.7 * octave
        )
    scaled = (total - total.min()) / (total.max() - total.min()) * 255
    return Image.fromarray(scaled.astype(np.uint8))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """White noise: the picture on which any two resizers differ most."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def drawn(seed: int = 0) -> Image.Image:
    """A scene of recap-tiny: plain areas and hard edges."""
    return scenes.draw(scenes.random_scene(np.random.default_rng(seed)))


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    """The bytes of a file of that format."""
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def damaged_png() -> bytes:
    """A PNG that passes the gate; libpng finds the wrong checksum."""
    data = bytearray(encode(noise(90, 70), "PNG"))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def with_orientation(orientation: int) -> Image.Exif:
    """EXIF data that holds an orientation and nothing else."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def blank_png(width: int, height: int) -> bytes:
    """A whole black PNG of any size, one bit a pixel, made row by row: 30000 x 30000 are 0.1 MB."""
    packer = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    packed = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
