"""Packs the images of a folder or a table into a tar, as img2dataset lays it out.

A sample has its image as it is, the txt, and a json with what is known of it. Keys of folders have '/' and '.', which
mean something else in a webdataset: here the key is the number of the shard, in five digits, and that of the sample.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import IO, Any

from recap_fast.decode.formats import sniff
from recap_fast.errors import ShardError
from recap_fast.export import tar_headers
from recap_fast.export.choice import Chosen
from recap_fast.export.job import Job
from recap_fast.export.tar_edits import column_fields
from recap_fast.export.target import Draft
from recap_fast.records import OK, Sample, Shard
from recap_fast.shards.sample import is_image_name
from recap_fast.shards.side_text import read_json, write_json
from recap_fast.shards.tar.headers import BLOCK

ADDED, NEW_CHECKED = "members added", "new members checked"
_END = bytes(20 * BLOCK)
"""Two blocks of zeros end a tar, which fills whole records of 20."""
_LIKE = b"".join((bytes(100), b"0000644\0", b"0000000\0", b"0000000\0", bytes(12), b"%011o\0" % 0)).ljust(BLOCK, b"\0")
"""Mode, owner and time of all members: they are the same in every export."""
_KNOWN = "key", "file_name", "url", "uid", "sha256", "width", "height"
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WebP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "AVIF": "avif"}


def pack(job: Job, shard: Shard, draft: Draft) -> None:
    """Writes the tar of one shard. Raises ShardError where an image is not the one that was captioned."""
    number = list(job.joined.run.shards).index(shard.name)
    digests = []
    path = draft.file(f"{shard.name}.tar")
    with path.open("wb") as target:
        for chosen, sample in job.pairs(shard, draft, ("metadata", *_KNOWN, *job.json_columns)):
            if chosen.skipped is not None:
                continue
            key = f"{number:05d}{sample.index:06d}"
            for suffix, content in _members(job, key, chosen, sample).items():
                target.write(member := tar_headers.member(f"{key}.{suffix}".encode(), content, _LIKE))
                draft.counts[ADDED] += 1
                digests.append((len(member), hashlib.sha256(member).digest()))
        target.write(bytes(2 * BLOCK).ljust(2 * BLOCK + -(target.tell() + 2 * BLOCK) % len(_END), b"\0"))
        target.flush()
        os.fsync(target.fileno())
    if job.config.verify:
        with path.open("rb") as made:
            _check(made, digests)
        draft.counts[NEW_CHECKED] += len(digests)


def _members(job: Job, key: str, chosen: Chosen, sample: Sample) -> Mapping[str, bytes]:
    """The members of a sample by their extensions."""
    row, members = chosen.row, dict[str, bytes]()
    if sample.status == OK:
        members[_suffix(sample)] = sample.image
    fields = _metadata(row["metadata"]) | {name: row[name] for name in _KNOWN if row[name] is not None}
    in_txt = job.config.place == "txt"
    if not in_txt:
        fields |= {"re_caption": chosen.recaption, "org_caption": row["org_caption"]}
    text = chosen.caption if in_txt else row["org_caption"]
    if text is not None:
        members["txt"] = text.encode()
    members["json"] = write_json(fields | column_fields(row, job.json_columns)).encode()
    return members


def _metadata(text: str | None) -> dict[str, Any]:
    read = read_json(text, "", []) if text else None
    if read is None:
        return {}
    return dict(read.value) if isinstance(read.value, dict) else {"json": read.value}


def _suffix(sample: Sample) -> str:
    """The extension of the image: by its first bytes, else that of its file."""
    name = (sample.file_name or "").lower()
    own = name.rpartition(".")[2] if is_image_name(name) else "img"
    return _SUFFIXES.get(sniff(sample.image) or "", own)


def _check(made: IO[bytes], digests: list[tuple[int, bytes]]) -> None:
    for size, digest in digests:
        if hashlib.sha256(made.read(size)).digest() != digest:
            raise ShardError(f"was not packed right: the tar differs before its byte {made.tell():,}")
