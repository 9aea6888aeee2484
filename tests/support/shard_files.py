"""Shards and outputs for tests: made with Python's tarfile and pyarrow, not with our code. And shards that are read."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap_fast.records import Sample, Selection, Shard
from recap_fast.shards.reader import ShardReader, open_shard
from recap_fast.write.schema import SCHEMA

_OF_SAMPLE = ("key", "file_name", "sha256", "image_sha256", "warning")


def tar_bytes(members: Iterable[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar with these members, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def webdataset_members(num: int, first: int = 0) -> list[tuple[str, bytes]]:
    """Members as img2dataset writes them, of images that are not images: nothing in shards/ looks into them."""
    members = []
    for i in range(first, first + num):
        key = f"{i:09d}"
        fields = {"url": f"http://x/{i}", "caption": f"alt {i}", "key": key, "sha256": f"{i:064x}", "uid": f"u{i}"}
        members += [
            (f"{key}.jpg", f"image {i}".encode() * 20),
            (f"{key}.json", json.dumps(fields).encode()),
            (f"{key}.txt", f"alt {i}".encode()),
        ]
    return members


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Writes a tar, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def write_table(path: Path, columns: Mapping[str, Any], **options: Any) -> Path:
    """Writes a Parquet file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, **options)
    return path


def write_rows(
    path: Path,
    shard: str,
    indices: Sequence[int],
    samples: Sequence[Sample] = (),
    *,
    failed: Sequence[int] = (),
    made_from: str | None = None,
    tag: str = "",
) -> Path:
    """Writes an output or a stretch with a row for each index; those of `failed` have an error.

    Rows are of the samples where there are any; `made_from` is the version of the input where not.
    """
    by_index = {sample.index: sample for sample in samples}
    rows = []
    for index in indices:
        sample = by_index.get(index) or Sample(shard=shard, index=index, key=f"{index:09d}", image=b"")
        rows.append(
            {
                **{name: getattr(sample, name) for name in _OF_SAMPLE},
                "re_caption": f"caption {index}{tag}",
                "shard": shard,
                "index": index,
                "status": "truncated" if index in failed else "ok",
                "input_version": made_from or sample.input_version,
                "flags": [],
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table.replace_schema_metadata({"recap_fast.shard": shard}), path)
    return path


def read_samples(
    shard: Shard, *, done: Sequence[int] = (), selection: Selection | None = None
) -> tuple[list[Sample], ShardReader]:
    """The samples of a shard but for the indices in `done`, and the reader, which is closed."""
    with open_shard(shard, selection) as reader:
        return list(reader.samples(np.array(done, np.int64))), reader
