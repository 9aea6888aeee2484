"""What is done and what is not: the state of an output folder, all of it on disk, O(shards).

In go the run's shards and its fingerprint; out comes what is left to do of each, and done-records at the end.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recap_fast.atomic import remove_leftovers, sha256_of
from recap_fast.errors import ShardError
from recap_fast.records import Identity, OutputFile, Shard, ShardReport
from recap_fast.shard_set import ShardSet
from recap_fast.write.done_record import read_record, write_record
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import merge_run_file, read_run_file, refuse_other_fingerprint
from recap_fast.write.stretches import done_rows, input_of, recount, remove_stretches, stretches

logger = logging.getLogger(__name__)

Reason = Literal["new", "failed", "truncated", "interrupted", "changed", "output missing", "retry"]
_ENDED = ("complete", "truncated")
"""Of shards with an output that has all rows there are."""
NUM_THREADS = 32
"""To ask for the versions of inputs: each answer may come over a network."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A shard that is to be done, and why."""

    shard: Shard
    reason: Reason


@dataclass(frozen=True, slots=True)
class ShardState:
    """What is on disk of a shard that is not done."""

    kept: tuple[Path, ...]
    """Parquet files with rows of it. Where two have the same index, the row of the later file counts."""
    done: NDArray[np.int64]
    """Indices of the rows that need not be done again, ascending; those that could not be read are not among them."""


@dataclass(frozen=True)
class Ledger:
    """What is done in an output folder, and what is not."""

    output: OutputFolder
    fingerprint: Mapping[str, Any]
    """All that decides what the rows of the run say; anything that json can hold."""
    shard_set: ShardSet
    """The run's shards, as the folder names them once it is opened or found."""
    version_of: Callable[[Shard], Identity]
    """Which version of an input there is now. Raises ShardError where there is none."""
    retry_failed: bool = False
    """Whether rows with an error count as not done."""

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All of the run."""
        return self.shard_set.shards

    def open(self, *, overwrite: bool = False) -> "Ledger":
        """Makes the folder or goes on in it.

        `overwrite` removes what earlier runs wrote: never to be given to one of several processes. Raises ConfigError
        for a folder of another fingerprint or with other files, and for inputs from elsewhere.
        """
        shard_set = merge_run_file(self.output, self.fingerprint, self.shard_set, overwrite=overwrite)
        remove_leftovers(self.output.root)
        return replace(self, shard_set=shard_set)

    def find(self) -> "Ledger | None":
        """As `open`, of a folder that a run has made and that stays as it is; None where there is none."""
        run = read_run_file(self.output)
        if run is None:
            return None
        refuse_other_fingerprint(self.output, run.fingerprint, self.fingerprint)
        return replace(self, shard_set=self.shard_set.below(run.root))

    def forget_unused(self) -> None:
        """Takes the run file back where nothing was made yet: a run that could not begin is not to bind the next."""
        if not any(folder.exists() for folder in self.output.folders):
            self.output.run_file.unlink(missing_ok=True)

    def pending(self, shards: Sequence[Shard] | None = None, *, redo_changed: bool = False) -> list[Pending]:
        """The shards, of these or of the whole run, that are not done, and why.

        Inputs that changed since they were done are named in a warning, and pending only with `redo_changed`.
        """
        shards = self.shards if shards is None else shards
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            reasons = pool.map(lambda shard: self._reason(shard, redo_changed), shards)
            return [Pending(shard, reason) for shard, reason in zip(shards, reasons, strict=True) if reason]

    def state(self, shard: Shard, version: Identity) -> ShardState:
        """What is on disk of a shard whose input is now of this version; rows made from another one do not count."""
        record = self.record(shard.name)
        output = self.output.data(shard.name)
        kept = [output] if output.exists() and input_of(output) == version.text else []
        # a stretch from before the done-record is in the output already
        since = record.finished_ns if record and kept and record.input == version else 0
        recent = (stretch.path for stretch in stretches(self.output.partial(shard.name)) if stretch.made_ns > since)
        kept += [path for path in recent if input_of(path) == version.text]
        return ShardState(tuple(kept), done_rows(kept, retry_failed=self.retry_failed))

    def record(self, name: str) -> ShardReport | None:
        """The done-record of a shard; None where there is none. A second process may have written it meanwhile."""
        return read_record(self.output.record(name))

    def is_done(self, shard: Shard, version: Identity) -> bool:
        """Whether there is a done-record for all of this version of the input: another process may have written it."""
        record = self.record(shard.name)
        return record is not None and record.status in _ENDED and record.input == version

    def commit(self, report: ShardReport) -> None:
        """Writes the done-record, after the output is in place, and removes the stretches.

        A shard that failed before anything was written has no output and may have no version of its input.
        Two processes may commit the same shard: both have all rows, and the record fits the file that stays.
        """
        report = replace(report, finished_ns=time.time_ns())
        write_record(self.output.record(report.shard), report)
        if report.output is not None:
            self._settle(report)
        if report.status in _ENDED:
            remove_stretches(self.output, report.shard)

    def _settle(self, mine: ShardReport) -> None:
        """Makes the record fit the output, should another process have replaced one of the two.

        Whoever writes a record looks afterwards, so the last to write finds out.
        """
        while True:
            with self.output.data(mine.shard).open("rb") as file:  # one throughout, whatever takes its place meanwhile
                output, record = OutputFile(sha256_of(file), file.tell()), self.record(mine.shard)
                if record is not None and record.output == output:
                    return
                logger.warning("%s: another process has committed this shard too", mine.shard)
                mine = replace(recount(file, mine), output=output)
            write_record(self.output.record(mine.shard), mine)

    def _reason(self, shard: Shard, redo_changed: bool) -> Reason | None:
        record = self.record(shard.name)
        if record is None:
            return "new"
        if record.status != "complete":
            return record.status
        path = self.output.data(shard.name)
        if record.output is None or not path.exists() or path.stat().st_size != record.output.size_bytes:
            return "output missing"
        if self._has_changed(shard, record):
            return "changed" if redo_changed else None
        # killed between the done-record and the removal of what it made superfluous
        remove_stretches(self.output, shard.name, before_ns=record.finished_ns)
        return "retry" if self.retry_failed and record.failed else None

    def _has_changed(self, shard: Shard, record: ShardReport) -> bool:
        try:
            now = self.version_of(shard)
        except ShardError as error:
            logger.warning("%s is done, but its input %s", shard.url, error)
            return False
        if now == record.input:
            return False
        then = record.input or Identity(0, "unknown")
        logger.warning(
            "%s has changed since it was captioned: %d bytes, version %s then; %d bytes, version %s now. "
            "Its captions stay as they are unless --redo-changed is given.",
            shard.url,
            then.size_bytes,
            then.version,
            now.size_bytes,
            now.version,
        )
        return True
