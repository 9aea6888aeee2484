"""Puts finished samples back together into shards: rows in order, then the shard's file, then its done-record.

The pipeline's writing thread feeds it. It knows the ledger and the shard writers, and nothing about images or engines.
This is the boundary of a shard: an error in its rows or its file fails this shard and no other. Only a disk that takes
no more (OSError) ends the run.
"""

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from recap_fast.errors import OutputGoneError, RecapError, ShardError
from recap_fast.records import Identity, Row, Shard, ShardReport, ShardStatus
from recap_fast.write.captions import Detokenize
from recap_fast.write.ledger import Ledger
from recap_fast.write.output_watch import OutputWatch
from recap_fast.write.shard_writer import ShardWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EndOfShard:
    """No more samples of this shard will come."""

    shard: Shard
    total: int
    """How many samples were sent on."""
    whole: bool
    """Whether the reader came to its end; False if the run stopped before that."""
    problem: str | None
    """Why not all of the input could be read."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Parts of the input that have no row, by reason."""


@dataclass(slots=True)
class OpenShard:
    """A shard that is being written."""

    shard: Shard
    identity: Identity
    writer: ShardWriter
    started: float
    """The time by time.monotonic()."""
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Time that each stage has spent on this shard so far."""
    end: EndOfShard | None = None
    """Set when the reader has come to it."""


class Assembly:
    """The shards being written. `begin`, `spend` and `open_shards` are for any thread, all else for the writing one."""

    def __init__(
        self,
        ledger: Ledger,
        detokenize: Detokenize,
        on_order: Callable[[int, int], object],
        on_report: Callable[[], None],
    ):
        """`on_order` gets the number of rows that have come into order, so that they wait for no other, and their
        `text_bytes`. `on_report` is called for each shard that ends, finished or failed.
        """
        self._ledger, self._detokenize = ledger, detokenize
        self._on_order, self._on_report = on_order, on_report
        self._watch = OutputWatch(ledger.output)
        self._opened: dict[str, OpenShard] = {}
        self._failed: set[str] = set()
        self.reports: list[ShardReport] = []
        """One for each shard that ended, including those that failed or were interrupted."""

    @property
    def open_shards(self) -> tuple[str, ...]:
        """Names of the shards that are being written. Any thread may ask."""
        return tuple(self._opened)

    def begin(self, shard: Shard, identity: Identity) -> NDArray[np.int64]:
        """Opens the output of a shard, whose input now has this identity; returns the indices that are done already.

        Raises OutputGoneError where the object store that has the output cannot be reached.
        """
        try:
            found = self._ledger.state(shard, identity)
        except OSError as error:
            if self._ledger.output.is_out_of_reach(error):
                raise OutputGoneError(str(error)) from error
            raise
        writer = ShardWriter(
            self._ledger.output,
            shard,
            identity,
            self._detokenize,
            kept=found,
            made_with=self._ledger.made_with,
            check_output=self._watch.check,
            prompt=self._ledger.wanted.prompt,
        )
        self._opened[shard.name] = OpenShard(shard, identity, writer, time.monotonic())
        return found.done

    def spend(self, name: str, stage: str, seconds: float) -> None:
        """Adds to the time that a stage has spent on a shard; each stage has a thread of its own."""
        if opened := self._opened.get(name):
            opened.seconds[stage] += seconds

    def add(self, row: Row) -> None:
        """Takes a finished row."""
        name = row.sample.shard
        opened = self._opened.get(name)
        if opened is None:  # it has failed since it was read
            self._on_order(1, row.text_bytes)
            return
        start = time.monotonic()
        with self._boundary(opened):
            if (sample := row.sample).error or sample.warning:
                error, warning = map(self._ledger.publishable, (sample.error, sample.warning))
                row.sample = replace(sample, error=error, warning=warning)
            in_order, num_bytes = opened.writer.add(row)
            if in_order:
                self._on_order(in_order, num_bytes)
            opened.writer.flush_if_old()
        self.spend(name, "write", time.monotonic() - start)
        self._finish_if_due(name)

    def end(self, end: EndOfShard) -> None:
        """Notes that a shard was read to its end; it is finished once all its rows are there."""
        name = end.shard.name
        if opened := self._opened.get(name):
            opened.end = end
            self._finish_if_due(name)
        elif name not in self._failed:  # it could not be opened at all
            self._commit(replace(_report(end.shard, "failed"), error=end.problem))

    def flush_old(self) -> None:
        """Writes rows that have waited long to disk; call it when there is nothing else to do."""
        for opened in list(self._opened.values()):  # the reading thread may begin another
            with self._boundary(opened):
                opened.writer.flush_if_old()

    def close(self) -> None:
        """Writes all finished rows to disk; the next run goes on from there."""
        for opened in list(self._opened.values()):
            with self._boundary(opened):
                opened.writer.flush()
                opened.writer.close()
                self.reports.append(_report(opened.shard, "interrupted"))
        self._opened.clear()

    @contextlib.contextmanager
    def _boundary(self, opened: OpenShard) -> Iterator[None]:
        """Wraps work on one shard: an error fails this shard alone. OSError ends the run."""
        try:
            yield
        except OSError as error:
            if not self._ledger.output.is_out_of_reach(error):
                self._watch.check()  # a better error if the whole folder is gone
            raise
        except Exception as error:
            known = isinstance(error, RecapError)
            problem = str(error) if known else f"{type(error).__name__}: {error}"
            name = opened.shard.name
            logger.warning("shard %s cannot be written: %s", name, problem, exc_info=not known)
            self._opened.pop(name, None)
            self._failed.add(name)
            self._on_order(*opened.writer.give_up())
            self._commit(replace(_report(opened.shard, "failed"), error=problem, input=opened.identity))

    def _finish_if_due(self, name: str) -> None:
        opened = self._opened.get(name)
        if opened is None or opened.end is None:
            return
        end = opened.end
        if end.whole and end.total == opened.writer.num_in_order:
            with self._boundary(opened):
                self._finish(self._opened.pop(name), end)

    def _finish(self, opened: OpenShard, end: EndOfShard) -> None:
        start = time.monotonic()
        try:
            report = opened.writer.finish()
        except FileNotFoundError as error:
            name = opened.shard.name
            opened.writer.close()
            record = self._ledger.record(name)
            if record is None or not self._ledger.is_done(opened.shard, opened.identity):
                self._watch.check()
                raise ShardError(f"a file of the output was removed meanwhile: {error}") from error
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
        self._commit(report)

    def _commit(self, report: ShardReport) -> None:
        self._watch.check()
        self._ledger.commit(report)
        self._note(report)

    def _note(self, report: ShardReport) -> None:
        self.reports.append(report)
        self._on_report()


def _report(shard: Shard, status: ShardStatus) -> ShardReport:
    """The report on a shard without output."""
    return ShardReport(shard=shard.name, status=status)
