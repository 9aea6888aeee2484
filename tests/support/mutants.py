"""Damaged images, each from a number: what `tests/decode/test_fuzz.py` throws at the decoders.

    python mutants.py DECODER FIRST LAST

decodes those from FIRST to before LAST in this process, in batches, and names each batch on standard output before it
is decoded. An outcome that is none ends it with a traceback.
"""

import functools
import io
import random
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image

from recap_fast.decode.decoder import make_decoder
from recap_fast.decode.noise import own_stderr
from recap_fast.records import Preprocess

BATCH = 32
READY = "ready\n"
"""What is on standard error before it was written there; nothing may follow."""
PREPROCESS = Preprocess(32, "pad", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STATUSES = {"ok", "not_an_image", "empty_image", "unsupported", "truncated", "corrupt"}
STATUSES |= {"too_large", "too_small", "extreme_aspect"}
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    """The bytes of a file of that format."""
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


@functools.cache
def originals() -> tuple[bytes, ...]:
    """Whole images of all formats, small ones, with metadata."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    picture = coarse.resize((64, 48), Image.Resampling.BICUBIC)
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize((64, 48)))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "text", 72.0
    moving = {"save_all": True, "append_images": [picture.rotate(9)]}
    profile = b"profile" * 40
    files = [
        encode(picture, "JPEG", exif=exif, comment=b"comment", icc_profile=profile),
        encode(picture, "JPEG", progressive=True, quality=50),
        encode(picture, "JPEG", subsampling=0, restart_marker_rows=1),
        encode(picture.convert("L"), "JPEG"),
        encode(picture.convert("CMYK"), "JPEG"),
        encode(picture, "MPO", **moving),
        *(encode(picture.convert(mode), "PNG", exif=exif, icc_profile=profile) for mode in ("RGB", "P", "L", "1")),
        encode(alpha, "PNG", dpi=(72, 72)),
        encode(picture, "PNG", **moving),
        encode(picture, "WEBP", exif=exif, icc_profile=profile),
        encode(picture, "WEBP", lossless=True),
        encode(alpha, "WEBP"),
        encode(picture, "WEBP", **moving),
        encode(picture, "GIF", comment=b"comment"),
        encode(picture, "GIF", **moving),
        *(encode(picture.convert(mode), "BMP") for mode in ("RGB", "P", "1")),
        *(encode(picture, "TIFF", compression=c, exif=exif) for c in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg")),
        encode(picture.convert("1"), "TIFF", compression="group4"),
        encode(picture.convert("L"), "TIFF", compression="packbits", big_tiff=True),
        encode(picture, "AVIF", exif=exif),
        encode(picture, "AVIF", **moving),
        encode(picture, "JPEG2000"),
        encode(picture, "JPEG2000", no_jp2=True),
        encode(picture, "PPM"),
        encode(picture, "BMP")[14:],
    ]
    return (*files, *_by_plugins(picture, exif))


def _by_plugins(picture: Image.Image, exif: Image.Exif) -> list[bytes]:
    """HEIC and JPEG XL, where the extras are installed."""
    files = []
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        out = io.BytesIO()
        pillow_heif.from_pillow(picture).save(out, exif=exif.tobytes())
        files.append(out.getvalue())
    try:
        import pillow_jxl  # noqa: F401 - it registers itself
    except ImportError:
        return files
    return [*files, encode(picture, "JXL"), encode(picture, "JXL", use_container=True, exif=exif.tobytes())]


def _position(data: bytearray, rng: random.Random) -> int:
    """Anywhere, and half of the time in the headers."""
    return rng.randrange(min(len(data), 200) if rng.random() < 0.5 else len(data))


def _flip(data: bytearray, rng: random.Random) -> None:
    data[_position(data, rng)] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    data[_position(data, rng)] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))


def _number(data: bytearray, rng: random.Random) -> None:
    at, size = _position(data, rng), rng.choice((2, 4))
    data[at : at + size] = (rng.choice(EXTREMES) % 256**size).to_bytes(size, rng.choice(("little", "big")))


def _remove(data: bytearray, rng: random.Random) -> None:
    at = _position(data, rng)
    del data[at : at + rng.choice((1, 2, 4, 50))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at, size = _position(data, rng), rng.choice((1, 4, 12, 100))
    data[at:at] = data[at : at + size] * rng.choice((1, 1, 30))


def _move(data: bytearray, rng: random.Random) -> None:
    source, target, size = _position(data, rng), _position(data, rng), rng.choice((2, 8, 64))
    data[target : target + size] = data[source : source + size]


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[_position(data, rng) + 1 :]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...]
MUTATIONS = (_flip, _flip, _set, _set, _number, _number, _remove, _repeat, _move, _cut)


def mutant(number: int) -> bytes:
    """One of the originals with one to four things wrong."""
    rng = random.Random(number)
    data = bytearray(originals()[number % len(originals())])
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(MUTATIONS)(data, rng)
        if not data:
            break
    return bytes(data)


def decode(decoder: str, first: int, last: int) -> None:
    """Decodes mutants in this process; raises AssertionError for an outcome that is none."""
    made = make_decoder(decoder, PREPROCESS, max_image_pixels=10**7)
    sys.stderr.write(READY)
    for start in range(first, last, BATCH):
        sys.stdout.write(f"{start}\n")
        sys.stdout.flush()
        batch = made.decode([mutant(number) for number in range(start, min(start + BATCH, last))])
        for number, (outcome, pixels) in enumerate(zip(batch.outcomes, batch.pixels, strict=True), start):
            assert outcome.status in STATUSES, (number, outcome)
            assert (outcome.error is None) == (outcome.status == "ok"), (number, outcome)
            assert outcome.status == "ok" or not pixels.any(), (number, outcome)
            assert outcome.status != "ok" or (outcome.width and outcome.height), (number, outcome)


if __name__ == "__main__":
    with own_stderr():
        decode(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
