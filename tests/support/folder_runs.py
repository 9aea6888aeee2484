"""Runs over loose images with fake stages and a real ledger, and what is on disk after them."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from support.engines import FakeEngine
from support.fake_runs import FakeCaptioner, FakeDecoder
from support.runs import read_rows

from recap_fast.pipeline.counters import RunCounters
from recap_fast.pipeline.pipeline import Pipeline
from recap_fast.records import ImageBatch, Selection
from recap_fast.shards.expand import expand
from recap_fast.shards.identity import identity, image_versions
from recap_fast.shards.reader import open_shard
from recap_fast.write.ledger import Ledger
from recap_fast.write.opening import Wanted
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.pruning import prune as prune_rows

SELECTION = Selection()
SETTINGS = {
    "decoder": "fake",
    "versions": "fake 1",
    "prompt": "What?",
    **{name: getattr(SELECTION, name) for name in ("image_column", "caption_column", "images", "image_key")},
}
"""A fingerprint; `verify` wants the fields of the selection."""


class BrokenError(Exception):
    """Ends a run in its middle."""


class CountingDecoder(FakeDecoder):
    """Remembers what it decoded."""

    def __init__(self) -> None:
        self.images: list[bytes] = []

    def decode(self, images: Sequence[bytes]) -> ImageBatch:
        self.images += images
        return super().decode(images)


class BreakingEngine(FakeEngine):
    """Breaks once it has made so many captions."""

    def __init__(self, after: int | None):
        super().__init__(num_slots=2, length=lambda _: 1)
        self._after = after

    def step(self, *, more: bool = False) -> Any:
        if self._after is not None and self.completed >= self._after:
            raise BrokenError
        return super().step(more=more)


def want(*patterns: object, settings: Mapping[str, Any] = SETTINGS, **wishes: Any) -> Wanted:
    """What a run over these patterns wants of its output folder."""
    return Wanted(
        fingerprint=settings,
        inputs=expand([str(pattern) for pattern in patterns], SELECTION),
        version_of=identity,
        versions_of=image_versions,
        **wishes,
    )


def run(
    output: Path,
    *patterns: object,
    retry: Sequence[str] = (),
    redo_changed: bool = False,
    limit: int | None = None,
    part: tuple[int, int] = (0, 1),
    break_after: int | None = None,
    **wishes: Any,
) -> list[bytes]:
    """Captions into `output` as `launch.execute` does; the images that were decoded. Raises BrokenError where asked."""
    ledger = Ledger(OutputFolder.at(output), want(*patterns, **wishes), retry, redo_changed).find().open()
    _, pending = prune_rows(ledger, ledger.pending(ledger.shards[part[0] :: part[1]]))
    captioner: Any = FakeCaptioner(BreakingEngine(break_after))
    captioner.decoder = decoder = CountingDecoder()
    pipeline = Pipeline(
        lambda shard, should_stop: open_shard(shard, SELECTION, should_stop),
        captioner,
        ledger,
        RunCounters(len(pending)),
        window=8,
        limit=limit,
    )
    if pending:
        pipeline.run([each.shard for each in pending])
    return decoder.images


def rows_by_file(output: Path) -> dict[str, dict[str, Any]]:
    """The row of each file, by its absolute path. Fails where keys or files are there twice."""
    rows = read_rows(output)
    root = json.loads((output / "local.json").read_text())["root"]
    paths = [os.path.normpath(f"{root}/{row['file_name']}") for row in rows]
    for name, values in {"file_name": paths, "key": [row["key"] for row in rows]}.items():
        assert len(set(values)) == len(values), f"{name} twice: {sorted(values)}"
    return dict(zip(paths, rows, strict=True))


def versions_on_disk(output: Path) -> dict[str, str]:
    """Of which version of each file the latest row is, those of unfinished shards included."""
    if not (output / "run.json").exists():
        return {}
    root = json.loads((output / "local.json").read_text())["root"]
    stretches = sorted((output / "partial").rglob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    versions = {}
    for path in [*sorted((output / "data").rglob("*.parquet")), *stretches]:
        for row in pq.ParquetFile(path).read(columns=["file_name", "input_version"]).to_pylist():
            versions[os.path.normpath(f"{root}/{row['file_name']}")] = row["input_version"]
    return versions


def units(output: Path) -> dict[str, dict[str, Any]]:
    """The content of all units' files, by name; their digests are left out."""
    folder = output / "units"
    paths = {re.sub(r"\.[0-9a-f]{16}(?=\.json$)", "", str(p.relative_to(folder))): p for p in folder.rglob("*.json")}
    return {name: json.loads(path.read_text()) for name, path in sorted(paths.items())}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_images(folder: Path, names: Sequence[str], first: int = 0) -> dict[str, bytes]:
    """Different images of equal size, a second apart; what each path has."""
    contents = {}
    for number, name in enumerate(names, first):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(number))
        os.utime(path, ns=(number * 10**9, number * 10**9))
        contents[str(path)] = image(number)
    return contents


def image(number: int) -> bytes:
    """A file that the fake decoder takes for an image; all are of one size."""
    return f"image {number:08d}".encode()
