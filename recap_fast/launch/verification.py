"""Verifies the output of a run: finds its inputs again as the run found them, and has each row compared with them."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from recap_fast.launch.config import relocation, selection_of
from recap_fast.progress import OnProgress, unwatched
from recap_fast.records import Identity, Sample, Selection, Shard
from recap_fast.shards.expand import expand
from recap_fast.shards.identity import identity, image_versions
from recap_fast.shards.patience import patience, patiently
from recap_fast.shards.patience import progress as made_progress
from recap_fast.shards.reader import ShardReader, open_shard
from recap_fast.write.compare import InputsToCompare, Reader
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import read_run_file
from recap_fast.write.verify import Verdict
from recap_fast.write.verify import verify as check


def verify(
    output: OutputFolder,
    shards: Sequence[str],
    relocate: Sequence[str],
    read_timeout: float,
    progress: OnProgress = unwatched,
) -> Verdict:
    """Checks an output; with `shards`, the patterns of the run, also that each row is of the image that it names.

    `relocate` are folders of inputs that were moved, as 'OLD=NEW'; a read of an input that brings nothing for
    `read_timeout` seconds is given up. `progress` is told how many shards are checked. Raises ConfigError.
    """
    if not shards:
        return check(output, progress=progress)
    run = read_run_file(output)
    selection = Selection() if run is None else selection_of(run.fingerprint)

    @contextlib.contextmanager
    def open_watched(shard: Shard) -> Iterator[Reader]:
        with open_shard(shard, selection) as reader:
            yield _Watched(reader)

    with patience(read_timeout):
        inputs = InputsToCompare(
            inputs=expand(shards, selection, output.row_folders),
            open_shard=open_watched,
            version_of=identity,
            versions_of=image_versions,
            relocate=tuple(map(relocation, relocate)),
            bounded=patiently,
        )
        return check(output, inputs, progress)


class _Watched:
    """A reader that reports each sample as progress, so that its reads are not given up."""

    def __init__(self, reader: ShardReader) -> None:
        self._reader = reader

    @property
    def identity(self) -> Identity:
        return self._reader.identity

    @property
    def problem(self) -> str | None:
        return self._reader.problem

    def samples(self, done: NDArray[np.int64]) -> Iterator[Sample]:
        for sample in self._reader.samples(done):
            made_progress()
            yield sample
