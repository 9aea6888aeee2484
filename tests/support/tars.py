"""Tars for the tests of `export --to webdataset`: made and taken apart by Python's tarfile alone."""

import io
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from recap_fast.export.choice import Chosen

BLOCK = 512


def entry(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member with fields of its header."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(content), 1_600_000_000
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def write(path: Path, *entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> Path:
    """A tar of these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return path


def contents(path: Path) -> list[tuple[str, bytes | None]]:
    """Name and content of each member, in order; None for what has none. A link has that of its target."""
    with tarfile.open(path) as tar:
        return [(info.name, (file := tar.extractfile(info)) and file.read()) for info in tar]


def rest(path: Path, without: Collection[str]) -> bytes:
    """The bytes of a tar up to its end mark but for members of these names, headers and all."""
    content, kept, position = path.read_bytes(), b"", 0
    with tarfile.open(path) as tar:
        for info in tar:
            end = info.offset_data + -(-info.size // BLOCK) * BLOCK
            if info.name in without:
                kept, position = kept + content[position : info.offset], end
    return (kept + content[position:]).rstrip(b"\0")


def by_name(path: Path) -> Mapping[str, bytes | None]:
    """The content of each member."""
    return dict(contents(path))


def chosen(index: int, key: str, caption: str | None = "A cat.", **fields: Any) -> Chosen:
    """A row and what was chosen of it."""
    row = {"index": index, "key": key, "re_caption": caption, "org_caption": "alt", **fields}
    return Chosen(row, caption, fields.get("caption", caption), fields.get("skipped"))
