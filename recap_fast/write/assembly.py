"""Puts finished samples back together into shards: rows in order, then the shard's file, then its done-record.

The pipeline's writing thread feeds it; it knows the ledger and the shard writers, and nothing of images or engines.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from recap_fast.pipeline.counters import Progress
from recap_fast.records import Identity, ImageOutcome, Sample, Shard, ShardReport
from recap_fast.write.captions import Finished
from recap_fast.write.ledger import Ledger
from recap_fast.write.shard_writer import ShardWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenShard:
    """A shard with rows on their way."""

    shard: Shard
    identity: Identity
    writer: ShardWriter
    started: float
    """By time.monotonic()."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage, this shard's share of the work so far; each thread adds to its own stage."""

    def spend(self, stage: str, seconds: float) -> None:
        """Adds to a stage's share."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


@dataclass(frozen=True, slots=True)
class Ticket:
    """A sample on its way: the `order`-th, from 0, that was read of its shard."""

    shard: OpenShard
    order: int
    sample: Sample
    outcome: ImageOutcome = field(default_factory=ImageOutcome)
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class EndOfShard:
    """No more samples of this shard will come."""

    shard: Shard
    opened: OpenShard | None
    """None where it could not be opened at all."""
    total: int
    """Samples that were sent on their way."""
    whole: bool
    """Whether the reader came to its end; not so where the run stops before it."""
    problem: str | None
    """Why not all of the input could be read."""


class Assembly:
    """The shards that are being written. Not for several threads at once."""

    def __init__(self, ledger: Ledger, progress: Progress, release: Callable[[int], None]):
        """`release` is told how many samples have come into order, and so no longer wait for others."""
        self._ledger = ledger
        self._progress = progress
        self._release = release
        self._opened: dict[str, OpenShard] = {}
        self._ended: dict[str, EndOfShard] = {}
        self.reports: list[ShardReport] = []
        """One for each shard that ended, failed and interrupted ones included."""

    def add(self, ticket: Ticket, finished: Finished) -> None:
        """Takes a finished sample."""
        opened = self._opened.setdefault(ticket.shard.shard.name, ticket.shard)
        self._progress.count(finished.status, finished.completion)
        start = time.monotonic()
        released = opened.writer.add(ticket.order, finished)
        opened.writer.flush_if_old()
        opened.spend("write", time.monotonic() - start)
        if released:
            self._release(released)
        self._finish_if_due(opened.shard.name)

    def end(self, end: EndOfShard) -> None:
        """Takes the news that a shard was read to its end; it is finished once all its rows are there."""
        if end.opened is None:
            report = ShardReport(shard=end.shard.name, status="failed", error=end.problem)
            self._ledger.commit(end.shard, report, None)
            self._note(report)
            return
        self._opened.setdefault(end.shard.name, end.opened)
        self._ended[end.shard.name] = end
        self._finish_if_due(end.shard.name)

    def flush_old(self) -> None:
        """Brings rows to disk that have waited long; call it when there is nothing else to do."""
        for opened in self._opened.values():
            opened.writer.flush_if_old()

    def close(self) -> None:
        """Brings all finished rows to disk; the next run goes on from there."""
        for name, opened in self._opened.items():
            opened.writer.flush()
            self.reports.append(ShardReport(shard=name, status="interrupted"))
        self._opened.clear()

    def _finish_if_due(self, name: str) -> None:
        end, opened = self._ended.get(name), self._opened[name]
        if end is None or not end.whole or end.total != opened.writer.num_released:
            return
        del self._opened[name], self._ended[name]
        start = time.monotonic()
        try:
            file = opened.writer.finish()
        except FileNotFoundError:
            record = self._ledger.record(name)
            if record is None or not self._ledger.is_done(opened.shard, opened.identity):
                raise
            logger.warning("shard %s: another process finished it first", name)
            self._note(record.report)
            return
        now = time.monotonic()
        opened.spend("write", now - start)
        seconds = {**opened.seconds, "wall": now - opened.started}
        report = ShardReport(
            shard=name,
            status="truncated" if end.problem else "complete",
            rows=file.rows,
            captioned=file.captioned,
            failed=file.failed,
            num_tokens=file.num_tokens,
            seconds={stage: round(spent, 3) for stage, spent in seconds.items()},
            error=end.problem,
        )
        self._ledger.commit(opened.shard, report, opened.identity, sha256=file.sha256, size_bytes=file.size_bytes)
        self._note(report)

    def _note(self, report: ShardReport) -> None:
        self.reports.append(report)
        self._progress.finish_shard()
