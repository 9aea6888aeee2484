"""Finished samples, and shards that are finished with them, for the tests of write/."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from support.ledgers import path_of
from support.shard_files import read_samples, write_rows

from recap_fast.atomic import replacing, sha256_of
from recap_fast.records import Completion, FinishReason, ImageOutcome, OutputFile, Row, Sample, Shard, ShardReport
from recap_fast.write.ledger import Ledger


def finished(
    index: int,
    caption: str | None = "A cat.",
    *,
    order: int | None = None,
    reason: FinishReason = "stop",
    shard: str = "00000",
    **sample: object,
) -> Row:
    """A row whose caption has a token for each character; without a caption the image was no image.

    `order` is the index unless given.
    """
    given = Sample(**{"shard": shard, "index": index, "key": f"{index:09d}", "image": b"", **sample})
    row = Row(order=index if order is None else order, sample=given)
    if caption is None:
        row.outcome = ImageOutcome(status="not_an_image", error="It is not an image.")
        return row
    ids = np.array([ord(c) for c in caption], np.int32)
    row.outcome, row.completions = ImageOutcome(640, 480), (Completion(index, ids, reason, len(ids) + 1),)
    return row


def finish(
    ledger: Ledger,
    shard: Shard,
    indices: Sequence[int] | None = None,
    *,
    failed: Sequence[int] = (),
    status: str = "complete",
    tag: str = "",
) -> None:
    """What the pipeline does at the end of a shard, whose rows are those of all its samples unless given."""
    samples, reader = read_samples(shard)
    indices = [sample.index for sample in samples] if indices is None else indices
    with replacing(path_of(ledger.output, ledger.output.data(shard.name))) as path:
        write_rows(path, shard.name, indices, samples, failed=failed, tag=tag)
        output = output_file(path)
    files = {file.path: file.version or "" for file in shard.files if file is not None}
    report = ShardReport(shard=shard.name, status=status, input=reader.identity, output=output, files=files)
    statuses = Counter({"ok": len(indices) - len(failed), "truncated": len(failed)})
    ledger.commit(report.with_rows(+statuses, {}))


def output_file(path: Path) -> OutputFile:
    """What a done-record says of a file."""
    return OutputFile(sha256_of(path), path.stat().st_size)
