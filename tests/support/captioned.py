"""Outputs with the rows that a test wants, finished or not, of tars that are there or gone."""

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support import pictures

from recap_fast.atomic import sha256_of
from recap_fast.records import Identity, OutputFile, Selection, Shard, ShardReport
from recap_fast.shards.identity import identity
from recap_fast.write.done_record import write_record
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import RunFile, Usage, find_versions, write_run_file
from recap_fast.write.schema import SCHEMA
from recap_fast.write.stretches import stretch_name

SETTINGS: Mapping[str, Any] = {
    "engine": "tiny",
    "engine.weights.safetensors": "0123456789ab" * 5,
    "prompt": "What is this?",
    **{name: getattr(Selection(), name) for name in Selection.__dataclass_fields__},
}


def row(number: int, re: str | None = "A cat sits here.", org: str | None = "cat", **given: Any) -> dict[str, Any]:
    """A row with a caption, or without one: then it says why."""
    is_ok = re is not None
    content = {
        "key": f"{number:09d}",
        "sha256": hashlib.sha256(b"%d" % number).hexdigest(),
        "re_caption": re,
        "org_caption": org,
        "re_length": len(re.split()) if is_ok else None,
        "org_length": None if org is None else len(org.split()),
        "status": "ok" if is_ok else "corrupt",
        "error": None if is_ok else "The data is damaged.",
        "finish_reason": "stop" if is_ok else "error",
        "num_tokens": 2 * len(re.split()) if is_ok else None,
        "flags": [],
    }
    return content | given


def several(row: Mapping[str, Any], captions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The row with these captions; the first one is its caption."""
    if not captions:
        return {**row, "captions": None}
    listed = [{"finish_reason": "stop", "num_tokens": 2 * len(each["text"].split()), **each} for each in captions]
    first = {"re_caption": listed[0]["text"], "re_length": len(listed[0]["text"].split())}
    first |= {name: listed[0][name] for name in ("finish_reason", "num_tokens")}
    return {**row, **first, "captions": listed}


def write(
    folder: Path,
    shards: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    images: bool = False,
    unfinished: Sequence[str] = (),
    settings: Mapping[str, Any] = SETTINGS,
) -> OutputFolder:
    """Writes `folder`/out, and with `images` a tar of pictures for each shard to `folder`/in.

    A row gets its shard and its index, and where there is an image its hash, whatever it says.
    """
    output, root = OutputFolder.at(folder / "out"), folder.absolute() / "in"
    output.store.make_root()
    for shard, rows in shards.items():
        filled = [{**each, "shard": shard, "index": index} for index, each in enumerate(rows)]
        if images:
            for each, digest in zip(filled, _write_tar(root / f"{shard}.tar", filled), strict=True):
                each["sha256"] = digest
        read = identity(Shard(shard, str(root / f"{shard}.tar"), "tar")) if images else Identity(1, "1")
        _write_rows(output, shard, filled, read, is_finished=shard not in unfinished)
    usage = {"NVIDIA H100": Usage(1, 7200, 3600.0, is_gpu=True)}
    run = RunFile(settings, str(root), {name: str(root / f"{name}.tar") for name in shards}, usage=usage)
    write_run_file(output, run, find_versions(output))
    return output


def _write_rows(
    output: OutputFolder, shard: str, rows: Sequence[Mapping[str, Any]], read: Identity, *, is_finished: bool
) -> None:
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    with output.store.draft(f"{output.partial(shard)}/stretch" if not is_finished else output.data(shard)) as draft:
        pq.write_table(table, draft)
        digest = sha256_of(draft)
        if not is_finished:
            name = stretch_name(0, len(rows) - 1, digest)
            output.store.publish(draft, f"{output.partial(shard)}/{name}")
            return
        written = OutputFile(digest, draft.stat().st_size)
        output.store.publish(draft, output.data(shard))
    report = ShardReport(shard=shard, status="complete", input=read, output=written, finished_ns=1)
    flags = Counter(flag for each in rows for flag in each["flags"])
    write_record(output, report.with_rows(Counter(each["status"] for each in rows), flags))


def _write_tar(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    digests = []
    with tarfile.open(path, "w") as tar:
        for each in rows:
            image = pictures.encode(pictures.noise(20, 16, seed=each["index"]), "PNG")
            digests.append(hashlib.sha256(image).hexdigest())
            for suffix, content in (("png", image), ("json", json.dumps({"title": "A title"}).encode())):
                member = tarfile.TarInfo(f"{each['index']:09d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return digests
