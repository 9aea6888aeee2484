"""Removes the rows of images that were pruned from their units, without reading an image or opening an engine."""

from collections.abc import Sequence
from dataclasses import replace

from recap_fast.records import Identity, Shard, ShardReport
from recap_fast.write.ledger import Ledger, Pending
from recap_fast.write.shard_writer import ShardWriter


def prune(ledger: Ledger, pending: Sequence[Pending]) -> tuple[int, list[Pending]]:
    """Rewrites pruned shards without these rows; returns the number of rows removed, and what is left to do."""
    num_removed, rest = 0, []
    for each in pending:
        record = ledger.record(each.shard.name) if each.reason == "pruned" else None
        removed = None if record is None else _rewrite(ledger, each.shard, record)
        if removed is None:
            rest.append(each)
        else:
            num_removed += removed
    return num_removed, rest


def _rewrite(ledger: Ledger, shard: Shard, record: ShardReport) -> int | None:
    """The number of rows removed; None if other rows are missing, so that the shard is to be done."""
    kept = ledger.state(shard, Identity(0, ""))
    if len(kept.done) != sum(file is not None for file in shard.files):
        kept.close()
        return None
    writer = ShardWriter(ledger.output, shard, record.input or Identity(0, ""), lambda _: [], kept=kept)
    report = writer.finish()
    ledger.commit(replace(report, left_out=record.left_out))
    return record.rows - report.rows
