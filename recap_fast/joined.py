"""An output together with its inputs: the rows of each shard beside the samples that they were made of.

What comes after a run begins here: it knows where the run found the images, and proves that each is still the same one.
"""

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa

from recap_fast.errors import ShardError
from recap_fast.launch.config import relocation, selection_of
from recap_fast.records import OK, Sample, Selection, Shard
from recap_fast.shards.expand import expand
from recap_fast.shards.identity import identity, image_versions
from recap_fast.shards.locate import file_kind
from recap_fast.shards.reader import ShardReader, naming, open_shard
from recap_fast.write.compare import InputsToCompare, find_shards
from recap_fast.write.opening import read_register
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.rows import read_rows
from recap_fast.write.run_file import RunFile, read_run

PROOF = ("index", "sha256", "image_sha256", "status")
"""The columns that tell whether a sample is the one that a row was made of."""


@dataclass(frozen=True)
class JoinedOutput:
    """The output of a run, and where its inputs lie now."""

    output: OutputFolder
    run: RunFile
    patterns: tuple[str, ...] = ()
    """Values of `--shards`, where the inputs are to be found; none: where the run found them."""
    relocate: tuple[tuple[str, str], ...] = ()
    """Folders of inputs that were moved: from, to."""

    @classmethod
    def open(cls, output: OutputFolder, patterns: Sequence[str] = (), relocate: Sequence[str] = ()) -> Self:
        """Reads the run file; `relocate` are folders that were moved, each as 'OLD=NEW'.

        Raises ConfigError for a folder that is not the output of a run.
        """
        return cls(output, read_run(output), tuple(patterns), tuple(map(relocation, relocate)))

    @cached_property
    def selection(self) -> Selection:
        """Which images of a shard have a row."""
        return selection_of(self.run.fingerprint)

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The shards of the output that are among the inputs, in the output's order.

        The images of folders are looked for, no input is opened. Raises ConfigError for patterns that stand for
        nothing, and for a record of the output that cannot be read.
        """
        register = read_register(self.output, self.run)
        if self.patterns:
            inputs = expand(self.patterns, self.selection, self.output.row_folders)
            wanted = InputsToCompare(inputs, open_shard, identity, image_versions, self.relocate)
            return tuple(shard for shard in find_shards(self.output, register, wanted) if shard.name in register.shards)
        for old, new in self.relocate:
            register = register.relocated(old, new)
        shards = []
        for name, url in register.shards.items():
            if (unit := register.units.get(name)) is None:
                shards.append(Shard(name, url, "parquet" if file_kind(url) == "parquet" else "tar"))
                continue
            places = list(unit.places)
            versions = dict(zip(places, image_versions(url, [unit.files[place] for place in places]), strict=True))
            shards.append(Shard(name, url, "folder", unit.image_files(versions)))
        return tuple(shards)

    def rows(self, shard: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a shard; see `write.rows.read_rows`."""
        return read_rows(self.output, shard, columns)

    def open_input(self, shard: Shard) -> AbstractContextManager[ShardReader]:
        """Opens a shard's input. Raises ShardError, naming it, where it cannot be read."""
        return open_shard(shard, self.selection)

    def pairs(
        self, shard: Shard, columns: Sequence[str], wanted: Collection[int] | None = None
    ) -> Generator[tuple[dict[str, Any], Sample]]:
        """The rows with these columns beside their samples, ascending by index; only the `wanted` indices, or all.

        Raises ShardError where the input cannot be read, lacks a sample, or has another image in its place.
        """
        read = [*columns, *(name for name in PROOF if name not in columns)]
        batches = self.rows(shard.name, read)
        rows = (row for batch in batches for row in batch.to_pylist() if wanted is None or row["index"] in wanted)
        with self.open_input(shard) as reader, naming(shard):
            done = np.empty(0, np.int64)
            if wanted is not None:
                done = np.setdiff1d(np.arange(reader.num_samples), np.fromiter(wanted, np.int64, len(wanted)))
            samples = reader.samples(done)
            for row in rows:
                sample = next((sample for sample in samples if sample.index >= row["index"]), None)
                if sample is None or sample.index != row["index"]:
                    raise ShardError(f"has no image {row['index']} any more: {reader.problem or 'it was changed'}")
                _check_same(row, sample)
                yield {name: row[name] for name in columns}, sample


def _check_same(row: dict[str, Any], sample: Sample) -> None:
    """Raises ShardError where a sample with an image is not the one that the row was made of."""
    digests = row["sha256"], row["image_sha256"]
    if sample.status == OK and any(digests) and digests != (sample.sha256, sample.image_sha256):
        raise ShardError(f"has another image at index {row['index']} than the one that was captioned")
