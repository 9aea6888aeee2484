"""The one place where a shard's members or columns become a `Sample`.

In go an image, a caption and a json as bytes, whatever the kind of shard; out comes what the output's columns say of
them, always valid Unicode. Alt text and metadata are untrusted: nothing in them can make this fail.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recap_fast.records import OK, Sample
from recap_fast.text import unicode

IMAGE_EXTENSIONS = (
    *("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jxl"),
    *("jpe", "jfif", "jp2", "j2k", "ppm", "pgm", "pbm", "pnm", "tga", "ico", "img"),
)
"""Lower case, most usual first: of a sample with several images the first of these is captioned."""
MAX_IMAGE_BYTES = 256 << 20
"""Larger members are not read, as are texts above `MAX_TEXT_BYTES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSample:
    """What a shard holds for one sample, before anything is made of it."""

    key: str
    file_name: str | None = None
    version: str | None = None
    """`Identity.text` of what it was read from."""
    image: bytes = b""
    caption: bytes | None = None
    """The .txt."""
    metadata: bytes | None = None
    """The .json."""
    fields: Mapping[str, Any] | None = None
    """A table's columns url, uid, sha256; None: they are read from the json."""
    status: str = OK
    error: str | None = None
    warnings: Sequence[str] = ()


def to_sample(shard: str, index: int, raw: RawSample) -> Sample:
    """Bytes to columns: org_caption is the json's `org_caption`, else the caption, else the json's `caption`."""
    warnings = list(raw.warnings)
    metadata = _text(raw.metadata, "the json", warnings)
    fields = _fields(metadata, warnings) if raw.fields is None else raw.fields
    caption = _text(raw.caption, "the caption", warnings)
    candidates = (fields.get("org_caption"), caption, fields.get("caption"))
    org_caption = next((text for text in candidates if isinstance(text, str)), None)
    status, error = raw.status, raw.error
    if status == OK and not raw.image:
        status, error = "empty_image", "the image has no bytes"
    given, digest = _scalar(fields.get("sha256"), "sha256", warnings), _digest(raw.image)
    return Sample(
        shard=shard,
        index=index,
        key=unicode(raw.key),
        file_name=None if raw.file_name is None else unicode(raw.file_name),
        input_version=raw.version,
        image=raw.image if status == OK else b"",
        url=_scalar(fields.get("url"), "url", warnings),
        uid=_scalar(fields.get("uid"), "uid", warnings),
        sha256=given or digest,
        image_sha256=digest if given not in (None, digest) else None,
        org_caption=None if org_caption is None else _clean(org_caption, "the caption", warnings),
        metadata=metadata,
        status=status,
        error=None if error is None else unicode(error),
        warning="; ".join(warnings) or None,
    )


def is_image_name(name: str) -> bool:
    """Whether the last extension of a file name is one of an image."""
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and "." in name


def _digest(image: bytes) -> str | None:
    return hashlib.sha256(image).hexdigest() if image else None


def _text(content: bytes | None, what: str, warnings: list[str]) -> str | None:
    if content is None:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        warnings.append(f"{what} is not UTF-8 at byte {error.start}: such bytes are written as \\xNN")
        return content.decode("utf-8", "backslashreplace")


def _fields(metadata: str | None, warnings: list[str]) -> Mapping[str, Any]:
    if metadata is None:
        return {}
    try:
        fields = json.loads(metadata.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        warnings.append(f"the json cannot be read: {error}")
        return {}
    if isinstance(fields, dict):
        return fields
    warnings.append(f"the json is a {type(fields).__name__}, not an object")
    return {}


def _scalar(value: object, what: str, warnings: list[str]) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else _clean(value, what, warnings)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    warnings.append(f"{what} is a {type(value).__name__}, not text: it is only in the metadata")
    return None


def _clean(text: str, what: str, warnings: list[str]) -> str:
    cleaned = unicode(text)
    if cleaned != text:
        warnings.append(f"{what} has half a surrogate pair: it is written as \\uNNNN")
    return cleaned
