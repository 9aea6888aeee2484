"""What came with an image in files of its own: which of them are looked at, and what their bytes say."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from recap_fast.shards.sample import IMAGE_EXTENSIONS, is_image_name
from recap_fast.shards.side_text import read_json, read_text, text_or_bytes

CAPTION_EXTENSIONS = ("txt", "text", "caption")
"""What is read as the caption, the first of these before the others."""
_BINARY = IMAGE_EXTENSIONS | frozenset(
    (
        *("npy", "npz", "pyd", "pickle", "pkl", "pth", "pt", "ten", "tb", "mp", "msg", "cbor", "bin", "safetensors"),
        *("mp4", "m4v", "mkv", "avi", "webm", "mov", "mpg", "mpeg", "mp3", "m4a", "wav", "flac", "ogg", "opus"),
        *("gz", "zip", "zst", "xz", "bz2", "7z", "tar", "pdf", "h5", "hdf5", "exr", "dng", "psd", "parquet", "arrow"),
    )
)
_TEXT = frozenset((*CAPTION_EXTENSIONS, "transcript", "csv", "tsv", "xml", "html", "md", "yaml", "yml", "srt", "vtt"))
_NUMBERS = frozenset(("cls", "cls2", "class", "count", "index", "inx", "id"))
"""Extensions of whole numbers, as webdataset reads them."""
_FEW = 64
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,4000}")


@dataclass(frozen=True, slots=True)
class Parts:
    """The files of a row, by their extensions."""

    image: str | None
    further: int
    """How many other images the sample has."""
    caption: str | None
    json: str | None
    record: str | None
    """The .json of the whole sample, where the image has one of its own."""
    others: tuple[str, ...]
    """What may be text. All else cannot be part of metadata and is not read."""


class SampleFiles:
    """What is what among the files of a sample, by their extensions in lower case.

    `left.txt` and `left.json` are of `left.jpg` before `txt` and `json` are. Where every image has a row, such files
    are not with another image.
    """

    def __init__(self, extensions: tuple[str, ...], all_images: bool) -> None:
        self._extensions = frozenset(extensions)
        images = [name for name in extensions if is_image_name(f".{name}")]
        self._num_images = len(images)
        stems = {stem for name in images if (stem := name.rpartition(".")[0])} if all_images else set()
        self._common: list[str] = []
        self._own: dict[str, list[str]] = {stem: [] for stem in stems}
        for name in extensions:
            stem, _, suffix = name.rpartition(".")
            if suffix not in _BINARY:
                self._own.get(stem, self._common).append(name)
        self._parts: dict[str | None, Parts] = {}

    def parts(self, image: str | None) -> Parts:
        """The files of the row of an image; None: of the row that says there is none."""
        if image not in self._parts:
            self._parts[image] = self._find(image)
        return self._parts[image]

    def _find(self, image: str | None) -> Parts:
        stem = "" if image is None else image.rpartition(".")[0]
        starts = (f"{stem}.", "") if stem else ("",)
        captions = (start + name for start in starts for name in CAPTION_EXTENSIONS)
        caption = next((name for name in captions if name in self._extensions), None)
        jsons = [name for start in starts if (name := f"{start}json") in self._extensions]
        return Parts(
            image=image,
            further=self._num_images - (image is not None),
            caption=caption,
            json=jsons[0] if jsons else None,
            record=jsons[1] if len(jsons) > 1 else None,
            others=tuple(n for n in (*self._common, *self._own.get(stem, ())) if n not in (caption, *jsons)),
        )


_cached = lru_cache(1024)(SampleFiles)


def sample_files(extensions: tuple[str, ...], all_images: bool) -> SampleFiles:
    """The same object for samples with the same files, as those of a shard are."""
    return (_cached if len(extensions) <= _FEW else SampleFiles)(extensions, all_images)


def is_text_extension(extension: str) -> bool:
    """Whether files of this last extension, in any case of letters, are known to be text."""
    return extension.lower() in _TEXT or extension.lower() in ("json", "jsn", *_NUMBERS)


def side_value(extension: str, content: bytes, warnings: list[str]) -> Any:
    """What a file says: a json's value, a whole number, a text; bytes where it is none of these."""
    suffix = extension.rpartition(".")[2]
    if suffix in ("json", "jsn") and (read := read_json(content, f"the .{extension}", warnings)) is not None:
        return read.value
    if suffix in _TEXT or suffix in ("json", "jsn"):
        return read_text(content, f"the .{extension}", [] if suffix in ("json", "jsn") else warnings)
    text = text_or_bytes(content)
    if text is None:
        return content
    return int(text) if suffix in _NUMBERS and _WHOLE.fullmatch(text.strip()) else text
