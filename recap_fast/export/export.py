"""Brings the captions of an output to their use: opens what an export needs, and calls the kind that was asked for."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

from recap_fast.addresses import is_remote
from recap_fast.errors import ConfigError
from recap_fast.export.config import ExportConfig, Kind
from recap_fast.export.job import ExportResult, Job
from recap_fast.export.target import Target
from recap_fast.joined import JoinedOutput
from recap_fast.progress import OnProgress, unwatched
from recap_fast.shards.patience import patience
from recap_fast.write.output_folder import OutputFolder

MODULES: Mapping[Kind, str] = {
    "webdataset": "webdataset",
    "txt": "sidecars",
    "jsonl": "tables",
    "csv": "tables",
    "parquet": "parquet",
    "coco": "coco",
    "hub": "hub",
}
"""The module of each kind. It has a function `export`, which takes a `Job`; it is loaded when it is asked for."""

OF_INPUTS: tuple[Kind, ...] = ("webdataset", "parquet", "hub", "coco")
"""Kinds whose files a run would take for inputs."""


def export(
    config: ExportConfig, progress: OnProgress = unwatched, make_way: Callable[[], None] | None = None
) -> ExportResult:
    """Exports the captions of an output. `progress` is told how many rows are done, and how many there are.

    `make_way` is called before a library shows progress of its own, which it does not if that is None.

    Raises ConfigError for what cannot be used, and RecapError or OSError where something cannot be read or written.
    What is finished by then stays, and the same call goes on from there.
    """
    with patience(config.read_timeout):
        joined = JoinedOutput.open(OutputFolder.at(config.output), config.shards, config.relocate)
        if config.target is not None:
            _check_outside(config.target, joined.output.address)
        kind = importlib.import_module(f"recap_fast.export.{MODULES[config.to]}")
        folder = config.target or kind.image_folder(joined)
        inputs = [Path(shard.url) for shard in joined.shards if shard.kind != "folder" and not is_remote(shard.url)]
        target = Target(folder, config.record_name, config.settings, config.overwrite, inputs)
        with target.locked():
            target.open()
            job = Job(config, joined, target, progress, make_way)
            kind.export(job)
    if config.to in OF_INPUTS and _lies_among(folder, joined):
        job.result.advice.append(
            f"{folder} lies in a folder of the inputs: a later run over that folder would caption these files, too."
        )
    return job.result


def _lies_among(folder: Path, joined: JoinedOutput) -> bool:
    """Whether a folder is one with inputs, or below it."""
    local = [(Path(shard.url), shard.kind) for shard in joined.shards if not is_remote(shard.url)]
    above = {path if kind == "folder" else path.parent for path, kind in local}
    return any(folder.resolve().is_relative_to(each.resolve()) for each in above)


def _check_outside(target: Path, output: str) -> None:
    """Raises ConfigError for a target in the output of a run: `data/` has the captions and nothing else."""
    if not is_remote(output) and target.resolve().is_relative_to(Path(output).resolve()):
        raise ConfigError(f"--target {target} lies in the output {output}, which stays as it is: give another folder.")
