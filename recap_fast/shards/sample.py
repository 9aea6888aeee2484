"""The one place where a shard's members or columns become a `Sample`.

In go an image and all that came with it, whatever the kind of shard; out comes what the output's columns say of them,
always valid Unicode, and metadata that is always valid json. Alt text and metadata are untrusted: nothing in them can
make this fail.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recap_fast.records import OK, Sample
from recap_fast.shards.side_text import BYTES, Json, json_type, plain, read_json, read_text, text_or_bytes, write_json
from recap_fast.text import MAX_TEXT_BYTES, num_bytes, unicode

IMAGE_EXTENSIONS = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "pjpeg", "pjp", "mpo", "png", "apng", "webp", "gif", "bmp", "dib"),
        *("tif", "tiff", "avif", "avifs", "heic", "heics", "heif", "heifs", "hif", "jxl", "jp2", "j2k", "j2c"),
        *("jpc", "jpf", "jpx", "ppm", "pgm", "pbm", "pnm", "pfm", "tga", "ico", "img"),
    )
)
"""In lower case."""
CAPTION_NAMES = ("org_caption", "caption", "text", "txt", "alt_text")
"""What the original caption is called in a json or a table, the first of these before the others. In any case of
letters, as are the other names."""
_CAPTION_ORDER = (CAPTION_NAMES[0], None, *CAPTION_NAMES[1:])
"""None: the text that came as the caption."""
FIELD_NAMES = ("url", "uid", "sha256")
FURTHER_IMAGES = "further images of a sample"
"""Why images have no row where only one of a sample has."""
MAX_IMAGE_BYTES = 256 << 20
"""Larger members are not read, as are texts above `text.MAX_TEXT_BYTES`."""
_NOTHING = frozenset(("", "nan", "none", "null", "nat", "<na>", b"", b"nan", b"none", b"null", b"nat", b"<na>"))
"""What pandas and others write for a value that is not there."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSample:
    """What a shard holds for one sample, before anything is made of it."""

    key: str
    file_name: str | None = None
    version: str | None = None
    """`Identity.text` of what it was read from."""
    image: bytes = b""
    caption: bytes | str | None = None
    """The text that came as the image's caption: the .txt, a table's column of that name."""
    metadata: bytes | None = None
    """The json as it came: the .json, a table's column of that name."""
    record: Mapping[str, Any] | None = None
    """What else says the same as a json would: a line of a metadata file, a struct. The json goes before it."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Columns for `FIELD_NAMES`; they go before the json's and are in the metadata only where they cannot be used."""
    members: Mapping[str, Any] = field(default_factory=dict)
    """All else, by extension or column: text as bytes, or any value. The metadata holds it under that name."""
    status: str = OK
    error: str | None = None
    warnings: Sequence[str] = ()


def to_sample(shard: str, index: int, raw: RawSample) -> Sample:
    """Bytes to columns.

    org_caption is the first of these that is not empty: the json's `org_caption`, the caption, what the json has by
    another of `CAPTION_NAMES`. `metadata` is the json as it came where that is valid and nothing else came; else an
    object with its fields, those of the record and a field for each member. A name that is taken gets a dot before it.
    Members fill no other column, but that where all these are empty one by a caption's name is the caption.
    """
    warnings = list(raw.warnings)
    read = None if raw.metadata is None else read_json(raw.metadata, "the json", warnings)
    if read is not None and not isinstance(read.value, dict):
        warnings.append(f"the json is {json_type(read.value)}, not an object")
    named = in_any_case(_object(read, raw.record))
    columns, unused = _columns(raw.fields, named, warnings)
    org_caption, other_text = _org_caption(raw.caption, {**named, **_captions(raw, named)}, warnings)
    if other_text is not None:
        unused["txt"] = other_text
    metadata = _metadata(read, raw, unused, warnings)
    status, error = raw.status, raw.error
    if status == OK and not raw.image:
        status, error = "empty_image", "The image has no bytes."
    digest = hashlib.sha256(raw.image).hexdigest() if raw.image else None
    return Sample(
        shard=shard,
        index=index,
        key=unicode(raw.key),
        file_name=None if raw.file_name is None else unicode(raw.file_name),
        input_version=raw.version,
        image=raw.image if status == OK else b"",
        url=columns["url"],
        uid=columns["uid"],
        sha256=columns["sha256"] or digest,
        image_sha256=digest if columns["sha256"] not in (None, digest) else None,
        org_caption=org_caption,
        metadata=metadata,
        status=status,
        error=None if error is None else unicode(error),
        warning="; ".join(unicode(warning) for warning in warnings) or None,
    )


def in_any_case(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by their names in lower case. Of names that differ in case alone, the lower one or the first."""
    lower = {name.lower(): value for name, value in fields.items()}
    if len(lower) == len(fields):
        return lower
    return {**{name.lower(): value for name, value in reversed([*fields.items()])}, **fields}


def is_image_name(name: str) -> bool:
    """Whether the last extension of a file name is one of an image."""
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and "." in name


def _object(read: Json | None, record: Mapping[str, Any] | None) -> dict[str, Any]:
    own: dict[str, Any] = read.value if read is not None and isinstance(read.value, dict) else {}
    return {**own, **{name: value for name, value in record.items() if name not in own}} if record else own


def _columns(
    fields: Mapping[str, Any], named: Mapping[str, Any], warnings: list[str]
) -> tuple[dict[str, str | None], dict[str, Any]]:
    """The texts of `FIELD_NAMES`, and the fields that are none."""
    if not fields:
        return {name: _scalar(named[name], name, warnings) if name in named else None for name in FIELD_NAMES}, {}
    texts = {name: _scalar(value, name.lower(), warnings) for name, value in fields.items()}
    given = in_any_case(texts)
    columns = {name: given.get(name) or _scalar(named.get(name), name, warnings) for name in FIELD_NAMES}
    return columns, {n: fields[n] for n, text in texts.items() if text is None and not _is_nothing(fields[n])}


def _captions(raw: RawSample, named: Mapping[str, Any]) -> dict[str, str]:
    """Members by a caption's name that have a text, where neither the caption nor the json of that name has."""
    if raw.caption is not None and raw.caption.strip():
        return {}
    texts = in_any_case({name: text for name, text in raw.members.items() if isinstance(text, str) and text.strip()})
    return {name: texts[name] for name in CAPTION_NAMES if name in texts and _is_nothing(named.get(name))}


def _org_caption(
    caption: bytes | str | None, named: Mapping[str, Any], warnings: list[str]
) -> tuple[str | None, str | None]:
    """The original caption, and the text that came as such where that is another one."""
    own = None if caption is None else read_text(caption, "the caption", warnings)
    empty = odd = None
    for name in _CAPTION_ORDER:
        value = named.get(name) if name else own
        text = value if isinstance(value, str) else _as_text(value)
        if text is not None and text.strip():
            return _clean(text, "the caption", warnings), own if own and own != text else None
        if empty is None:
            empty = text
        if odd is None and text is None and not _is_nothing(value):
            odd = value
    if odd is not None and empty is None:
        warnings.append(f"the caption is {json_type(odd)}, not text: it is only in the metadata")
    return empty, None


def _metadata(read: Json | None, raw: RawSample, unused: Mapping[str, Any], warnings: list[str]) -> str | None:
    members = {name: text for name, value in raw.members.items() if (text := _text_of(value)) is not BYTES}
    own = read.text if read is not None and num_bytes(read.text) <= MAX_TEXT_BYTES else None
    if own is not None and not (raw.record or members or unused):
        return own
    whole = _whole(read, raw, (*unused.items(), *members.items()))
    if not whole and raw.record is None and read is None:
        return None
    try:
        text = write_json(whole)
        if num_bytes(text) <= MAX_TEXT_BYTES:
            return text
        odd = f"has {num_bytes(text):,} bytes as json"
    except RecursionError:
        odd = "is nested too deep"
    warnings.append(f"what came with the image {odd}: no more than its own json is kept")
    return own


def _whole(read: Json | None, raw: RawSample, others: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(_object(read, raw.record))
    if read is not None and not isinstance(read.value, dict):
        whole["json"] = read.value
    if read is None and raw.metadata is not None and raw.metadata.strip():
        whole["json"] = read_text(raw.metadata, "", [])  # what cannot be read is kept as text
    for name, value in others:
        free = name
        while free in whole:
            free = f".{free}"
        whole[free] = value
    return whole


def _text_of(value: Any) -> Any:
    """Bytes that are text as that, other bytes as BYTES; any other value as it is."""
    if not isinstance(value, bytes):
        return value
    text = text_or_bytes(value)
    return BYTES if text is None else text


def _scalar(value: Any, what: str, warnings: list[str]) -> str | None:
    """The value of a column as text; None, with a warning, where it is nothing that this column could hold."""
    if what == "sha256" and isinstance(value, bytes) and len(value) == 32:
        value = value.hex()
    if _is_nothing(value):
        return None
    text = (text_or_bytes(value) or value.hex()) if isinstance(value, bytes) else _as_text(value)
    if text is None:
        warnings.append(f"{what} is {json_type(value)}, not text: it is only in the metadata")
        return None
    if what == "sha256":
        text = text.strip().lower()
        if not _SHA256.fullmatch(text):
            warnings.append("sha256 is not one of 64 hex digits: it is only in the metadata")
            return None
    return _clean(text, what, warnings)


def _is_nothing(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return len(value) < 16 and value.strip().lower() in _NOTHING
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _as_text(value: Any) -> str | None:
    """Texts and finite numbers as text: whole ones without a fraction, as pandas gives integers one."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | bytes | Mapping | list | tuple):
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 1 << 53 else str(value)
    return str(plain(value))


def _clean(text: str, what: str, warnings: list[str]) -> str:
    cleaned = unicode(text)
    if cleaned != text:
        warnings.append(f"{what} has half a surrogate pair: it is written as \\uNNNN")
    return cleaned
