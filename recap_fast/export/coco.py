"""The kind `coco`: one Parquet file with the columns of Recap-COCO-30K, in the order of the inputs.

https://huggingface.co/datasets/UCSC-VLAA/Recap-COCO-30K has the columns `image_id` (int64), `coco_url`, `caption` (the
original one), `recaption` (ours) and `image`. Where an image has several new captions, it has a row for each.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from recap_fast.errors import RecapError
from recap_fast.export.choice import LIST
from recap_fast.export.features import IMAGE
from recap_fast.export.job import Job
from recap_fast.export.parquet import made_with, write_file
from recap_fast.export.parquet_writer import digest_of, image_of
from recap_fast.export.target import Draft

SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("coco_url", pa.string()),
        ("caption", pa.string()),
        ("recaption", pa.string()),
        ("image", IMAGE),
    ]
)
FILE = "data/train-00000-of-00001.parquet"
NAME = ".coco"
"""Name of the file's record; no shard has this name."""
COLUMNS = ("key", "file_name", "url", "org_caption", "metadata")
"""What it is made of, besides our captions and the image."""
_NAME = re.compile(r"(?:^|/)(?:COCO_((?:train|val|test)20\d\d)_|((?:train|val|test)20\d\d)/)(\d{12})(?:\.\w+)?$")
"""COCO's names: 'COCO_val2014_000000391895.jpg', and 'val2017/000000391895.jpg'. Other names have 12 digits, too."""
_IDS, _URLS = ("image_id", "cocoid", "coco_id"), ("coco_url",)
_HOST = "http://images.cocodataset.org"


def export(job: Job) -> None:
    """Writes the file. Raises RecapError for an image without COCO's number, and where the file does not read back."""
    job.together(NAME, partial(_write, job))
    if job.config.verify and job.result.shards:
        job.result.verified = "the file has all of its rows, and every image byte for byte"


def coco_row(row: Mapping[str, Any], caption: str | None) -> dict[str, Any]:
    """The columns but `image` of a row with `COLUMNS`.

    `image_id` is what the metadata says, or the number in COCO's name of the file. Raises RecapError where there is
    neither.
    """
    metadata, name = _metadata(row["metadata"]), _coco_name(row)
    given = next((number for key in _IDS if (number := _number(metadata.get(key))) is not None), None)
    number = int(name[3]) if given is None and name is not None else given
    if number is None:
        raise RecapError(
            f"{row['file_name'] or row['key']} has no image_id: COCO's images have it in their metadata (image_id), or "
            "in their names (COCO_val2014_000000391895.jpg, val2017/000000391895.jpg). Export others with --to parquet."
        )
    url = next((found for key in _URLS if isinstance(found := metadata.get(key), str)), row["url"])
    if url is None and name is not None:
        split = name[1] or name[2]
        url = f"{_HOST}/{split}/{f'COCO_{split}_' if name[1] else ''}{name[3]}.jpg"
    return {"image_id": number, "coco_url": url, "caption": row["org_caption"], "recaption": caption}


def _write(job: Job, draft: Draft) -> None:
    schema = SCHEMA.with_metadata(made_with(job))
    write_file(draft.file(FILE), schema, _rows(job, draft), verify=job.config.verify)


def _rows(job: Job, draft: Draft) -> Iterator[tuple[dict[str, Any], str | None]]:
    for shard, _ in job.finished:
        for chosen, sample in job.pairs(shard, draft, (*COLUMNS, LIST)):
            if chosen.skipped is None:
                image = {"image": image_of(sample, chosen.row["status"])}
                for recaption in job.choice.recaptions(chosen.row):
                    yield coco_row(chosen.row, recaption) | image, digest_of(sample)


def _metadata(text: str | None) -> Mapping[str, Any]:
    value = json.loads(text) if text else None
    return value if isinstance(value, dict) else {}


def _coco_name(row: Mapping[str, Any]) -> re.Match[str] | None:
    """The parts of COCO's name of the image, if the file or the key has one."""
    names = (row[column] or "" for column in ("file_name", "key", "url"))
    return next((match for name in names if (match := _NAME.search(name))), None)


def _number(value: object) -> int | None:
    """A whole number that an int64 holds; also one that is written as text or as a float."""
    try:
        number = int(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else -1
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < 2**63 and (isinstance(value, str) or number == value) else None
