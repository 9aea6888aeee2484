"""Outputs to export: finished shards over real inputs, with captions as a test wants them; and what `export` makes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support import pictures
from support.finished_rows import output_file
from support.ledgers import open_ledger, path_of
from support.shard_files import read_samples

from recap_fast.atomic import replacing
from recap_fast.export.config import ExportConfig
from recap_fast.export.export import export
from recap_fast.export.job import ExportResult
from recap_fast.records import Selection, ShardReport
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.rows import CAPTIONS_KEY
from recap_fast.write.schema import SCHEMA

MARKS = {"engine": "tiny", "prompt": "What?", **{field.name: field.default for field in fields(Selection)}}
NASTY = 'Two "cats",\r\n\tone <script>\u2028\u00e9\U0001f431, \\ = +1'
"""A caption that any format must quote."""
Change = Callable[[dict[str, Any]], None]


def make_output(
    folder: Path,
    *inputs: Path,
    change: Change = lambda _: None,
    selection: Selection | None = None,
    marks: Mapping[str, Any] | None = None,
) -> OutputFolder:
    """The output of a finished run over some inputs; `change` is called with each row before it is written.

    Captions are 'caption INDEX of SHARD'; samples without an image have none. `marks` are further settings of the run.
    """
    chosen = selection or Selection()
    ledger = open_ledger(folder, *inputs, marks={**MARKS, **asdict(chosen), **(marks or {})})
    for shard in ledger.shards:
        samples, reader = read_samples(shard, selection=chosen)
        rows = []
        for sample in samples:
            row = {name: getattr(sample, name) for name in SCHEMA.names if hasattr(sample, name)}
            caption = f"caption {sample.index} of {shard.name}" if sample.status == "ok" else None
            change(row := {**row, "re_caption": caption, "flags": []})
            rows.append(row)
        with replacing(path_of(ledger.output, ledger.output.data(shard.name))) as path:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
            made = output_file(path)
        files = {file.path: file.version or "" for file in shard.files if file is not None}
        ledger.commit(
            ShardReport(
                shard=shard.name,
                status="complete",
                rows=len(rows),
                captioned=len(rows),
                input=reader.identity,
                output=made,
                files=files,
            )
        )
    return ledger.output


def run_export(output: OutputFolder, to: str, target: Path, **options: Any) -> ExportResult:
    """Exports, without a command line."""
    return export(ExportConfig.of({"output": output.address, "to": to, "target": target, **options}))


def write_scores(output: OutputFolder, shard: str, scores: Sequence[float]) -> None:
    """Scores of the kind 'clip' for the first rows of a shard."""
    path = path_of(output, output.scores("clip", shard))
    path.parent.mkdir(parents=True, exist_ok=True)
    made_of = output_file(path_of(output, output.data(shard))).sha256
    table = pa.table({"index": range(len(scores)), "re_clip_score": scores, "org_clip_score": [s / 2 for s in scores]})
    pq.write_table(table.replace_schema_metadata({CAPTIONS_KEY: made_of}), path)
    path_of(output, output.score_settings("clip")).write_text("{}")


def picture(number: int, size: tuple[int, int] = (20, 16)) -> bytes:
    """A small PNG, each number another one."""
    return pictures.encode(pictures.noise(*size, seed=number), "PNG")


def below(folder: Path) -> dict[str, bytes]:
    """What an export has written, by path; without its records."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(".recap-fast")}
