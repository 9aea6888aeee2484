"""What a run wants of an output folder, and what `verify` wants of its inputs: over real files, without an engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recap_fast.records import Selection, Shard
from recap_fast.shards.expand import expand
from recap_fast.shards.identity import identity, image_versions
from recap_fast.shards.reader import open_shard
from recap_fast.write.compare import InputsToCompare
from recap_fast.write.ledger import Ledger
from recap_fast.write.opening import Wanted
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.register import Register, Registration
from recap_fast.write.units import make_units

MARKS = {"engine": "tiny"}


def path_of(output: OutputFolder, name: str) -> Path:
    """Where a local output folder has a file."""
    return Path(output.store.shown(name))


def shards_of(*patterns: str | Path, selection: Selection | None = None) -> tuple[Shard, ...]:
    """What these inputs are in a new output folder."""
    inputs = expand([str(pattern) for pattern in patterns], selection)
    return Registration(Register(inputs.root), image_versions).add(inputs)


def unit_of(folder: Path, *files: str) -> Shard:
    """A unit of these images as they are now, there or not."""
    (unit,) = make_units("", files, set())
    return Shard("s", str(folder), "folder", unit.image_files(dict(enumerate(image_versions(str(folder), files)))))


def wanted(*patterns: str | Path, marks: Mapping[str, Any] = MARKS, **changes: Any) -> Wanted:
    """What a run of these inputs wants."""
    given = {"inputs": expand([str(pattern) for pattern in patterns]), "fingerprint": marks}
    return Wanted(**{**given, "version_of": identity, "versions_of": image_versions, **changes})


def open_ledger(
    output: Path, *patterns: str | Path, retry: tuple[str, ...] = (), redo: bool = False, **more: Any
) -> Ledger:
    """The ledger of a run, opened; `more` are options of `wanted`."""
    return Ledger(OutputFolder.at(output), wanted(*patterns, **more), retry, redo).open()


def to_compare(*patterns: str | Path, **changes: Any) -> InputsToCompare:
    """These inputs, as `verify` takes them."""
    inputs = expand([str(pattern) for pattern in patterns])
    return InputsToCompare(inputs, open_shard, identity, image_versions, **changes)
