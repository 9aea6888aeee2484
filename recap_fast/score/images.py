"""The finished captions of a shard beside their images, as far as these can still be had."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recap_fast.atomic import sha256_of
from recap_fast.errors import RecapError
from recap_fast.records import OK, UNREADABLE, Sample
from recap_fast.score.scorer import Pair
from recap_fast.shards.reader import ShardReader
from recap_fast.write.output_folder import OutputFolder

COLUMNS = ("index", "re_caption", "org_caption", "sha256", "image_sha256")
BATCH_ROWS = 256
GONE, CHANGED = "gone", "changed"
"""Notes about images without a score: they are gone, or have changed since they were captioned."""


class Captions:
    """The rows of a finished shard."""

    def __init__(self, shard: str, file: pq.ParquetFile):
        self.shard = shard
        self._file = file
        table = file.read(columns=["index", "status"])
        self.indices: NDArray[np.int64] = table["index"].to_numpy()
        """Indices of all rows, ascending."""
        self.wanted = self.indices[table["status"].to_numpy() == OK]
        """Those of rows that have a caption; take some away, and they are left out."""

    def pairs(self, reader: ShardReader, notes: Counter[str]) -> Iterator[Pair]:
        """The wanted rows with their images; `notes` counts those whose images are not to be had."""
        left_out = np.setdiff1d(np.arange(reader.num_samples), self.wanted)
        samples = reader.samples(left_out)
        sample = next(samples, None)
        for row in self._rows():
            while sample is not None and sample.index < row["index"]:
                sample = next(samples, None)
            if sample is None or sample.index != row["index"]:
                notes[UNREADABLE if reader.problem else GONE] += 1
            elif sample.status != OK:
                notes[UNREADABLE if sample.status == UNREADABLE else GONE] += 1
            elif not _is_same(row, sample):
                notes[CHANGED] += 1
            else:
                yield Pair(self.shard, row["index"], sample.image, row["re_caption"], row["org_caption"])

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        for batch in self._file.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
            is_wanted = np.isin(batch["index"].to_numpy(), self.wanted)
            yield from batch.filter(pa.array(is_wanted)).to_pylist()


@contextlib.contextmanager
def open_captions(output: OutputFolder, shard: str, digest: str) -> Iterator[Captions]:
    """The captions of a finished shard, whose file has this SHA-256. Raises RecapError where they cannot be read."""
    try:
        with output.store.local(output.data(shard)) as path:
            if sha256_of(path) != digest:
                raise RecapError(
                    "its captions have changed since they were written; `recap-fast verify` says what to do"
                )
            with pq.ParquetFile(path) as file:
                yield Captions(shard, file)
    except pa.ArrowException as error:
        raise RecapError(f"its captions cannot be read ({error}); `recap-fast verify` says what to do") from error


def _is_same(row: Mapping[str, Any], sample: Sample) -> bool:
    digests = row["sha256"], row["image_sha256"]
    return not any(digests) or digests == (sample.sha256, sample.image_sha256)
