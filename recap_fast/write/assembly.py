"""Puts finished samples back together into shards: rows in order, then the shard's file, then its done-record.

The pipeline's writing thread feeds it; it knows the ledger and the shard writers, and nothing of images or engines.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from recap_fast.records import Identity, Row, Shard, ShardReport
from recap_fast.shard_set import public_url
from recap_fast.write.captions import Detokenize
from recap_fast.write.ledger import Ledger
from recap_fast.write.shard_writer import ShardWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EndOfShard:
    """No more samples of this shard will come."""

    shard: Shard
    total: int
    """Samples that were sent on their way."""
    whole: bool
    """Whether the reader came to its end; not so where the run stops before it."""
    problem: str | None
    """Why not all of the input could be read."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What of the input has no row, by reason."""


@dataclass(slots=True)
class OpenShard:
    """A shard with rows on their way."""

    shard: Shard
    identity: Identity
    writer: ShardWriter
    started: float
    """By time.monotonic()."""
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By stage, this shard's share of the work so far."""
    end: EndOfShard | None = None
    """Once the reader has come to it."""


class Assembly:
    """The shards that are being written. `begin` and `spend` are for any thread, all else for the writing one."""

    def __init__(
        self,
        ledger: Ledger,
        detokenize: Detokenize,
        on_order: Callable[[int], object],
        on_report: Callable[[], None],
    ):
        """`on_order` is told how many rows have come into order, so that they no longer wait for others.

        `on_report` is called for each shard that is finished, with captions or as failed.
        """
        self._ledger, self._detokenize = ledger, detokenize
        self._on_order, self._on_report = on_order, on_report
        self._opened: dict[str, OpenShard] = {}
        self.reports: list[ShardReport] = []
        """One for each shard that ended, failed and interrupted ones included."""

    def begin(self, shard: Shard, identity: Identity) -> NDArray[np.int64]:
        """Opens the output of a shard whose input is now of this identity; the indices that earlier runs have done."""
        found = self._ledger.state(shard, identity)
        writer = ShardWriter(self._ledger.output, shard, identity, self._detokenize, found, self._ledger.made_with)
        self._opened[shard.name] = OpenShard(shard, identity, writer, time.monotonic())
        return found.done

    def spend(self, name: str, stage: str, seconds: float) -> None:
        """Adds to what a stage has taken for a shard; each stage has a thread of its own."""
        self._opened[name].seconds[stage] += seconds

    def add(self, row: Row) -> None:
        """Takes a finished row."""
        name = row.sample.shard
        writer, start = self._opened[name].writer, time.monotonic()
        in_order = writer.add(row)
        writer.flush_if_old()
        self.spend(name, "write", time.monotonic() - start)
        if in_order:
            self._on_order(in_order)
        self._finish_if_due(name)

    def end(self, end: EndOfShard) -> None:
        """Takes the news that a shard was read to its end; it is finished once all its rows are there."""
        name = end.shard.name
        if name not in self._opened:  # it could not be opened at all
            report = ShardReport(shard=name, url=public_url(end.shard.url), status="failed", error=end.problem)
            self._ledger.commit(report)
            self._note(report)
            return
        self._opened[name].end = end
        self._finish_if_due(name)

    def flush_old(self) -> None:
        """Brings rows to disk that have waited long; call it when there is nothing else to do."""
        for opened in list(self._opened.values()):  # the reading thread may begin another
            opened.writer.flush_if_old()

    def close(self) -> None:
        """Brings all finished rows to disk; the next run goes on from there."""
        for name, opened in self._opened.items():
            opened.writer.flush()
            self.reports.append(ShardReport(shard=name, url=public_url(opened.shard.url), status="interrupted"))
        self._opened.clear()

    def _finish_if_due(self, name: str) -> None:
        opened = self._opened[name]
        end = opened.end
        if end is None or not end.whole or end.total != opened.writer.num_in_order:
            return
        del self._opened[name]
        start = time.monotonic()
        try:
            report = opened.writer.finish()
        except FileNotFoundError:
            record = self._ledger.record(name)
            if record is None or not self._ledger.is_done(opened.shard, opened.identity):
                raise
            logger.warning("shard %s: another process finished it first", name)
            self._note(record)
            return
        now = time.monotonic()
        opened.seconds["write"] += now - start
        opened.seconds["wall"] = now - opened.started
        report = replace(
            report,
            status="truncated" if end.problem else "complete",
            seconds={stage: round(each, 3) for stage, each in opened.seconds.items()},
            error=end.problem,
            left_out=dict(end.left_out),
        )
        self._ledger.commit(report)
        self._note(report)

    def _note(self, report: ShardReport) -> None:
        self.reports.append(report)
        self._on_report()
