"""Compares the rows of a shard with the images of its input: by index, by name, and by the SHA-256 of their bytes.

The output and the input go in, differences come out. Both are read side by side, a batch of rows and one image at a
time.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from recap_fast.addresses import public_url, scrub
from recap_fast.errors import RecapError
from recap_fast.inputs import Inputs
from recap_fast.records import UNREADABLE, Identity, Sample, Shard
from recap_fast.write.done_record import read_record
from recap_fast.write.names import some
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.register import Register, Registration, VersionsOf
from recap_fast.write.relocation import follow_move

COLUMNS = ("index", "key", "file_name", "status", "sha256", "image_sha256", "input_version")
BATCH_ROWS = 4096
_NOTHING = np.empty(0, np.int64)
_GONE = "has rows of images that are gone from"
_UNREADABLE = "has rows of images that cannot be read now in"


class _OutputError(Exception):
    """The output cannot be read."""


class Reader(Protocol):
    """An open input; `shards.reader.ShardReader` is one."""

    @property
    def identity(self) -> Identity: ...

    @property
    def problem(self) -> str | None: ...

    def samples(self, done: NDArray[np.int64]) -> Iterator[Sample]: ...


@dataclass(frozen=True, slots=True)
class InputsToCompare:
    """The inputs of an output, and how to read them."""

    inputs: Inputs
    open_shard: Callable[[Shard], AbstractContextManager[Reader]]
    """Raises ShardError for a shard that cannot be read."""
    version_of: Callable[[Shard], Identity]
    versions_of: VersionsOf
    relocate: Sequence[tuple[str, str]] = ()
    """Folders of inputs that were moved: from, to."""
    bounded: Callable[[Callable[[], "list[Difference]"]], "list[Difference]"] = lambda action: action()
    """Calls an action; raises TimeoutError if reading an input hangs."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that does not agree, about one or more images of a shard."""

    kind: Literal["lost input", "gone image", "changed input", "wrong rows"]
    sentence: str


def find_shards(output: OutputFolder, register: Register, inputs: InputsToCompare) -> tuple[Shard, ...]:
    """The shards of the inputs, as the output names them or, if they are new to it, would name them."""
    for old, new in inputs.relocate:
        register = register.relocated(old, new)
    register = follow_move(register, inputs.inputs, lambda name: read_record(output, name), inputs.version_of)
    return Registration(register, inputs.versions_of).add(inputs.inputs)


def missing_shard(shard: Shard) -> str:
    """The sentence about a shard of the inputs that the output does not have."""
    where, files = public_url(shard.url), [file.path for file in shard.files if file is not None]
    return f"has no rows yet: {some(files)} of {where}" if files else f"has no rows yet: {where}"


def compare(output: OutputFolder, inputs: InputsToCompare, shard: Shard) -> list[Difference]:
    """How the rows of a shard differ from the images of its input. The shard has an output."""
    try:
        return inputs.bounded(lambda: _compare(output, inputs, shard))
    except TimeoutError as error:
        return [Difference("lost input", f"cannot be compared with its input {public_url(shard.url)}: {error}")]


def _compare(output: OutputFolder, inputs: InputsToCompare, shard: Shard) -> list[Difference]:
    where, record = public_url(shard.url), read_record(output, shard.name)
    found: dict[tuple[str, bool], list[str]] = defaultdict(list)
    try:
        with inputs.open_shard(shard) as reader, _output(output, shard) as path:
            changed = shard.kind != "folder" and record is not None and record.input != reader.identity
            rows = _rows(path)
            for what, has_changed, image in _differences(rows, reader.samples(_NOTHING), changed):
                found[what, has_changed].append(image)
            problem = reader.problem
    except _OutputError:
        return []  # `verify` has reported that already
    except (RecapError, OSError) as error:
        return [Difference("lost input", f"cannot be compared with its input: {scrub(str(error))}")]
    differences = [
        Difference(_kind(what, has_changed), f"{what} {where}: {some(images)}")
        for (what, has_changed), images in found.items()
    ]
    if problem and record is not None and record.status == "complete":
        differences.append(
            Difference("lost input", f"was captioned whole, but {where} is now damaged: {scrub(problem)}")
        )
    return differences


def _kind(what: str, has_changed: bool) -> Literal["lost input", "gone image", "changed input", "wrong rows"]:
    if what in (_GONE, _UNREADABLE):
        return "gone image" if what == _GONE else "lost input"
    return "changed input" if has_changed else "wrong rows"


@contextlib.contextmanager
def _output(output: OutputFolder, shard: Shard) -> Iterator[Path]:
    """A local file with the rows of a shard. Raises _OutputError."""
    with contextlib.ExitStack() as files:
        try:
            path = files.enter_context(output.store.local(output.data(shard.name)))
        except OSError as error:
            raise _OutputError from error
        yield path


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of an output, by column. Raises _OutputError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
                yield from batch.select(COLUMNS).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _OutputError from error


def _differences(
    rows: Iterator[Mapping[str, Any]], samples: Iterator[Sample], shard_has_changed: bool
) -> Iterator[tuple[str, bool, str]]:
    """What is wrong, whether the input has changed since, and the image's name.

    Rows and samples come in the order of their indices.
    """
    row = next(rows, None)
    for sample in samples:
        while row is not None and row["index"] < sample.index:
            yield "has rows that are not in", shard_has_changed, _name(row)
            row = next(rows, None)
        if row is None or row["index"] > sample.index:
            yield "lacks rows of", shard_has_changed, sample.file_name or sample.key
            continue
        if what := _difference(row, sample):
            yield what, row["input_version"] != sample.input_version, _name(row)
        row = next(rows, None)
    while row is not None:
        yield "has rows that are not in", shard_has_changed, _name(row)
        row = next(rows, None)


def _difference(row: Mapping[str, Any], sample: Sample) -> str | None:
    if sample.input_version is None:
        return _GONE  # of a folder
    if sample.status == UNREADABLE:
        return None if row["status"] == UNREADABLE else _UNREADABLE
    if (row["key"], row["file_name"]) != (sample.key, sample.file_name):
        return "has rows with other names than"
    if row["status"] != UNREADABLE and _digests(row) != (sample.sha256, sample.image_sha256):
        return "has captions of other images than those in"
    return None


def _digests(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    return row["sha256"], row["image_sha256"]


def _name(row: Mapping[str, Any]) -> str:
    return str(row["file_name"] or row["key"])
