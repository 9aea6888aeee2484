"""The kinds `jsonl` and `csv`: one file for each shard, rows in input order, columns as they were asked for.

JSON Lines has a row a line, in UTF-8. CSV is as RFC 4180 says, with a header; null is an empty field, a list is JSON.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from recap_fast.errors import RecapError
from recap_fast.export.choice import LIST, Chosen
from recap_fast.export.job import SAMPLES, Job
from recap_fast.export.target import Draft
from recap_fast.records import Shard
from recap_fast.text import MAX_TEXT_BYTES
from recap_fast.write.rows import SCORES
from recap_fast.write.schema import SCHEMA

CAPTIONS = "re_caption", "org_caption"
DEFAULT = "key", "file_name", "url", *CAPTIONS, "flags"
"""The columns, unless others are asked for; scores come behind them where there are any."""
CAPTION = "caption"
"""The column with the one caption that `--mix-p` draws."""
Rows = Iterator[Mapping[str, Any]]


def export(job: Job) -> None:
    """Writes a file for each shard. Raises RecapError where one does not have all rows in the end."""
    columns = table_columns(job, DEFAULT)
    job.each_shard(partial(_write, job, columns), columns=columns)
    if job.config.verify and job.result.shards:
        job.result.verified = "every file has all of its rows"


def table_columns(job: Job, default: Sequence[str]) -> tuple[str, ...]:
    """The columns of a table: those that were asked for and the captions; else the default, scores if there are, and
    the list of captions where rows have one."""
    if job.config.columns:
        return tuple(dict.fromkeys((*job.config.columns, *CAPTIONS)))
    output = job.joined.output
    scored = (names for kind, names in SCORES.items() if output.store.stat(output.score_settings(kind)) is not None)
    found = dict.fromkeys((*default, *(name for names in scored for name in names)))
    return tuple(name for name in found if name != LIST) + ((LIST,) if job.has_lists else ())


def table_row(chosen: Chosen, columns: Iterable[str], draws: bool) -> dict[str, Any]:
    """The columns of a chosen row, with the caption that was chosen; `draws`: and the one that was drawn."""
    row = {name: chosen.row[name] for name in columns}
    if "re_caption" in row:
        row["re_caption"] = chosen.recaption
    return {**row, CAPTION: chosen.caption} if draws else row


def _write(job: Job, columns: Sequence[str], shard: Shard, draft: Draft) -> None:
    draws, kind = job.config.mix_p is not None, job.config.to
    chosen = (each for each in job.rows(shard, draft, columns) if each.skipped is None)
    rows = (table_row(each, columns, draws) for each in chosen)
    path = draft.file(f"{shard.name}.{kind}")
    write, count = _FORMATS[kind]
    write(path, rows, (*columns, CAPTION) if draws else columns)
    if job.config.verify and (found := count(path)) != draft.counts[SAMPLES]:
        raise RecapError(
            f"{path.parent}: {shard.name}.{kind} has {found:,} rows, not {draft.counts[SAMPLES]:,}: is the disk full?"
        )


def _write_jsonl(path: Path, rows: Rows, columns: Sequence[str]) -> None:
    floats = [name for name in columns if name in SCHEMA.names and pa.types.is_floating(SCHEMA.field(name).type)]
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False).encode
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            plain = {**row, **{name: _finite(row[name]) for name in floats}} if floats else row
            file.write(encode(plain) + "\n")


def _write_csv(path: Path, rows: Rows, columns: Sequence[str]) -> None:
    lists = [name for name in columns if name in SCHEMA.names and pa.types.is_list(SCHEMA.field(name).type)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            there = [name for name in lists if row[name] is not None]
            plain = {**row, **{name: json.dumps(row[name], ensure_ascii=False) for name in there}}
            writer.writerow(plain.values())


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is None or math.isfinite(value) else None


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))


def _count_records(path: Path) -> int:
    csv.field_size_limit(MAX_TEXT_BYTES)  # for all of this process, as where metadata files are read
    with path.open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.reader(file)) - 1


_Format = tuple[Callable[[Path, Rows, Sequence[str]], None], Callable[[Path], int]]
_FORMATS: Mapping[str, _Format] = {"jsonl": (_write_jsonl, _count_lines), "csv": (_write_csv, _count_records)}
"""How a kind is written, and how its rows are counted."""
