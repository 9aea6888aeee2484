"""Small outputs of the demo engine, and copies of them in which rows say something else."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scenes
from support import shard_files

import recap_fast
from recap_fast.joined import JoinedOutput
from recap_fast.replay.place import find_place
from recap_fast.replay.replay import Replay, replay
from recap_fast.replay.settings import settings_of
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.schema import SCHEMA

OPTIONS: Mapping[str, Any] = {"device": "cpu", "decoder": "pillow", "num_slots": 4, "decode_threads": 1}


def draw(seed: int) -> bytes:
    """A scene, as JPEG."""
    return scenes.jpeg(scenes.random_scene(np.random.default_rng(seed)))


def write_inputs(folder: Path) -> Path:
    """A tar whose second image is cut, a Parquet file and a folder with an alt text, of two or three images each."""
    cut = draw(2)[:900]
    shard_files.write_tar(folder / "web.tar", [("a.jpg", draw(1)), ("b.jpg", cut), ("c.jpg", draw(3))])
    images = [{"bytes": draw(seed), "path": f"{seed}.jpg"} for seed in (4, 5)]
    shard_files.write_table(folder / "table.parquet", {"image": images, "caption": ["four", "five"]})
    photos = folder / "photos"
    photos.mkdir()
    for seed, name in enumerate(("x", "y"), 6):
        (photos / f"{name}.jpg").write_bytes(draw(seed))
        (photos / f"{name}.txt").write_text(f"alt text of {name}\n")
    return folder


def caption(engine: Path, inputs: Path, output: Any, **options: Any) -> Any:
    """The output of a run over all of a folder."""
    recap_fast.run(engine, inputs, output, **{**OPTIONS, **options})
    return output


def again(output: Path | str, name: str, engine: Path, **options: Any) -> Replay:
    """What `recap-fast replay` does, on the CPU."""
    joined = JoinedOutput.open(OutputFolder.at(output), options.pop("shards", ()), options.pop("relocate", ()))
    config = settings_of(joined.run.fingerprint, engine, **{"device": "cpu", **options})
    return replay(joined, find_place(joined, name), config)


def rows(output: Path) -> dict[str, dict[str, Any]]:
    """The rows of finished shards, by 'SHARD:INDEX'."""
    files = sorted((output / "data").rglob("*.parquet"))
    found = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
    return {f"{row['shard']}:{row['index']}": row for row in found}


def with_row(output: Path, copy: Path, place: str, **changed: Any) -> Path:
    """A copy of an output in which one row has other values."""
    shutil.copytree(output, copy)
    shard, _, index = place.rpartition(":")
    path = copy / "data" / f"{shard}.parquet"
    with pq.ParquetFile(path) as file:
        metadata, content = file.metadata.metadata, file.read().to_pylist()
    content[int(index)] |= changed
    marks = {key: value for key, value in metadata.items() if key.startswith(b"recap_fast.")}
    pq.write_table(pa.Table.from_pylist(content, schema=SCHEMA.with_metadata(marks)), path)
    return copy


def with_mark(output: Path, copy: Path, name: str, value: Any) -> Path:
    """A copy of an output whose run had another setting."""
    shutil.copytree(output, copy)
    path = copy / "run.json"
    content = json.loads(path.read_text())
    content["fingerprint"][name] = value
    path.write_text(json.dumps(content))
    return copy
