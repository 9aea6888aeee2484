"""The kind `parquet`: the rows of the output, scores among them, with the images themselves.

Files are `data/train-00000-of-00012.parquet`, as the Hub names them. How many there are follows from the sizes of the
inputs before any is read: a shard has one for each `FILE_BYTES`, and none has rows of two shards.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any

import pyarrow as pa

from recap_fast.export.features import IMAGE
from recap_fast.export.job import Job
from recap_fast.export.parquet_writer import ParquetFile, digest_of, image_of
from recap_fast.export.tables import CAPTION, table_columns, table_row
from recap_fast.export.target import Draft
from recap_fast.records import Shard
from recap_fast.write.merge import MADE_WITH_KEY
from recap_fast.write.schema import SCHEMA

FILE_BYTES = 400 << 20
"""Bytes of input for each file: the Hub asks for files of some 500 MB."""
FLAG = "flag: "
"""The beginning of the count of rows with a flag."""


def export(job: Job) -> None:
    """Writes the files. Raises RecapError where one does not read back as it was written."""
    write_files(job)


def write_files(job: Job) -> pa.Schema:
    """Writes the files; the schema that they have."""
    columns = table_columns(job, SCHEMA.names)
    schema, plan = parquet_schema(job, columns), plan_files(job)
    job.each_shard(partial(_write, job, schema, plan), columns=columns, plan=plan)
    if job.config.verify and job.result.shards:
        images = ", and every image byte for byte" if job.config.images else ""
        job.result.verified = f"every file has all of its rows{images}"
    return schema


def parquet_schema(job: Job, columns: Sequence[str]) -> pa.Schema:
    """The image first, then the columns, then the caption that was drawn, if one is."""
    images = [pa.field("image", IMAGE)] if job.config.images else []
    drawn = [pa.field(CAPTION, pa.string())] if job.config.mix_p is not None else []
    return pa.schema([*images, *(SCHEMA.field(name) for name in columns), *drawn], made_with(job))


def made_with(job: Job) -> dict[bytes, bytes]:
    """Parquet metadata: the settings of the run, as JSON, in a list as in the files of an output."""
    return {MADE_WITH_KEY.encode(): json.dumps([dict(job.joined.run.fingerprint)]).encode()}


def plan_files(job: Job) -> dict[str, tuple[int, list[str]]]:
    """The rows of each finished shard, and the names of its files: as many as it has rows at most."""
    numbers: dict[str, int] = {}
    for shard, report in job.finished:
        read_from = report.input if job.config.images else report.output
        size = 0 if read_from is None else read_from.size_bytes
        numbers[shard.name] = min(max(1, ceil(size / FILE_BYTES)), report.rows)
    total, first, plan = sum(numbers.values()), 0, {}
    for shard, report in job.finished:
        behind = first + numbers[shard.name]
        names = [f"data/train-{i:05d}-of-{total:05d}.parquet" for i in range(first, behind)]
        plan[shard.name], first = (report.rows, names), behind
    return plan


def write_file(
    path: Path, schema: pa.Schema, rows: Iterable[tuple[Mapping[str, Any], str | None]], *, verify: bool
) -> None:
    """Writes one file of rows, each with the digest of its image. Raises RecapError where it does not read back."""
    with ParquetFile(path, schema) as file:
        for row, digest in rows:
            file.add(row, digest)
    if verify:
        file.verify()


def _write(
    job: Job, schema: pa.Schema, plan: Mapping[str, tuple[int, Sequence[str]]], shard: Shard, draft: Draft
) -> None:
    """The files of a shard: each has as many of its rows, in order, those apart that are skipped."""
    num_rows, names = plan[shard.name]
    numbered = enumerate(_rows(job, schema, shard, draft))
    for part, group in groupby(numbered, lambda row: row[0] * len(names) // num_rows):
        rows = (row for _, row in group if row is not None)
        write_file(draft.file(names[part]), schema, rows, verify=job.config.verify)


def _rows(
    job: Job, schema: pa.Schema, shard: Shard, draft: Draft
) -> Iterator[tuple[dict[str, Any], str | None] | None]:
    """The rows of a shard as a file has them, each with the digest of its image; None for each that is skipped."""
    columns = [name for name in schema.names if name not in ("image", CAPTION)]
    draws = CAPTION in schema.names
    has_images = "image" in schema.names
    pairs = job.pairs(shard, draft, columns) if has_images else ((row, None) for row in job.rows(shard, draft, columns))
    for chosen, sample in pairs:
        if chosen.skipped is not None:
            yield None
            continue
        draft.counts.update(FLAG + flag for flag in chosen.row["flags"] or ())
        row = table_row(chosen, columns, draws)
        if sample is None:
            yield row, None
        else:
            yield {"image": image_of(sample, chosen.row["status"])} | row, digest_of(sample)
