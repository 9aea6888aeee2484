"""What is done and what is not: the state of an output folder, all of it on disk, O(shards).

What a run wants of the folder goes in. What is left to do of each shard comes out, and done-records at the end.
"""

import logging
import re
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from recap_fast.addresses import is_remote, public_url, scrub
from recap_fast.atomic import sha256_of
from recap_fast.errors import ShardError
from recap_fast.records import Identity, OutputFile, Shard, ShardReport
from recap_fast.text import counted
from recap_fast.write.done_record import read_record, write_record
from recap_fast.write.names import some
from recap_fast.write.opening import Wanted, find_output, forget, open_output
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.stretches import Kept, done_rows, recount, remove_stretches, whole_output, whole_stretches

logger = logging.getLogger(__name__)

Reason = Literal["new", "failed", "truncated", "interrupted", "changed", "pruned", "output missing", "retry"]
_ENDED = ("complete", "truncated")
"""Statuses of shards whose output has all the rows there are."""
SWEEPS, SWEEP_S = 12, 0.25
NUM_THREADS = 32
"""How many threads ask for the versions of inputs: each answer may come over a network."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A shard that is to be done, and why."""

    shard: Shard
    reason: Reason


@dataclass(frozen=True, slots=True)
class _Finding:
    """Why a shard is to be done, if it is, and which of its images have changed or are gone."""

    reason: Reason | None
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """What is done in an output folder, and what is not."""

    output: OutputFolder
    wanted: Wanted
    retry: Collection[str] = ()
    """Rows of these statuses count as not done; 'all' stands for every one but 'ok'."""
    redo_changed: bool = False
    """Whether a caption counts as not done if its input has changed since."""
    provenance: Mapping[str, str | None] = field(default_factory=dict)
    """What this process makes its rows on, and of which commit: for `made_with`."""
    shards: tuple[Shard, ...] = ()
    """All shards of the run, once the folder is opened or found."""
    is_fresh: bool = False
    """Whether nothing in the folder counts: it is new, or is to be overwritten."""
    _read_records: dict[str, tuple[str, ShardReport | None]] = field(default_factory=dict, compare=False)
    """Done-records that were read, with the versions of their files: over a network each takes its time."""

    @property
    def made_with(self) -> Mapping[str, Any]:
        """What this process makes its rows with: the run's fingerprint and its `provenance`."""
        return {**self.wanted.fingerprint, **self.provenance}

    def open(self) -> "Ledger":
        """Makes the folder or goes on in it. Raises ConfigError; see `opening.open_output`."""
        return replace(self, shards=open_output(self.output, self.wanted))

    def find(self) -> "Ledger":
        """Like `open`, but leaves the folder as it is."""
        shards, is_fresh = find_output(self.output, self.wanted)
        return replace(self, shards=shards, is_fresh=is_fresh)

    def forget_unused(self) -> None:
        """Removes the run file if nothing else was made: a run that could not begin must not bind the next one."""
        if not self.output.has_work:
            forget(self.output)

    def pending(self, shards: Sequence[Shard] | None = None) -> list[Pending]:
        """Those of the shards that are not done, and why; by default of all shards of the run.

        A warning names inputs that have changed since they were done, or are gone.
        """
        shards = self.shards if shards is None else shards
        if self.is_fresh:
            return [Pending(shard, "new") for shard in shards]
        data = {file.name: file.size_bytes for file in self.output.data_files()}
        unfinished = {file.name.rpartition("/")[0] for file in self.output.partial_files()}
        records = self.records(shards)
        find = partial(self._find, data=data, unfinished=unfinished)
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            findings = list(pool.map(find, shards, records))
        self._warn(shards, findings)
        pairs = zip(shards, findings, strict=True)
        return [Pending(shard, finding.reason) for shard, finding in pairs if finding.reason]

    def is_pending(self, shard: Shard) -> bool:
        """Whether this one shard is not done, as `pending` has it; no files are listed for it."""
        file = self.output.store.stat(self.output.data(shard.name))
        data = {} if file is None else {file.name: file.size_bytes}
        return self._find(shard, self.record(shard.name), data, ()).reason is not None

    def state(self, shard: Shard, version: Identity) -> Kept:
        """What is there of a shard whose input now has this version; rows made from another one do not count.

        Whoever gets it closes it.
        """
        record = self.record(shard.name)
        with ExitStack() as files:
            output = whole_output(self.output, shard.name, record, files)
            kept = [] if output is None else [output]
            # a stretch from before the done-record is in the output already
            since = record.finished_ns if record and kept else 0
            kept += whole_stretches(self.output, shard.name, files, since)
            done = done_rows(kept, self._versions(shard, version, record), retry=self.retry)
            return Kept(tuple(kept), done, files.pop_all().close)

    def record(self, name: str) -> ShardReport | None:
        """The done-record of a shard, or None. Another process may have written it since."""
        return read_record(self.output, name)

    def records(self, shards: Sequence[Shard]) -> list[ShardReport | None]:
        """The done-records of many shards, read side by side; those that have not changed are not read again."""
        versions = {self.output.shard_of(file.name): file.version for file in self.output.record_files()}

        def record(name: str) -> ShardReport | None:
            if name not in versions:
                return None
            version, known = self._read_records.get(name, ("", None))
            if version != versions[name]:
                known = self.record(name)
                if known is None or not known.files:  # the names of loose images would take much memory
                    self._read_records[name] = versions[name], known
            return known

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            return list(pool.map(record, [shard.name for shard in shards]))

    def is_complete(self, name: str) -> bool:
        """Whether a shard has a done-record that says 'complete'."""
        record = self.record(name)
        return record is not None and record.status == "complete"

    def is_done(self, shard: Shard, version: Identity) -> bool:
        """Whether a done-record says that this version of the input is done; another process may have written it."""
        record = self.record(shard.name)
        return record is not None and record.status in _ENDED and record.input == version

    def commit(self, report: ShardReport) -> None:
        """Writes the done-record, after the output is in place, and removes the stretches.

        A shard that failed before anything was written has no output, and perhaps no version of its input.
        Two processes may commit the same shard: both have all rows, and the record will fit the file that stays.
        """
        report = replace(report, error=self.publishable(report.error), finished_ns=time.time_ns())
        write_record(self.output, report)
        if report.output is not None:
            self._settle(report)
        if report.status in _ENDED:
            remove_stretches(self.output, report.shard)

    def sweep(self, finished: Collection[str]) -> None:
        """Removes what workers that have ended left of these shards, which others finished.

        A process that is about to end may take a moment, and what a living one writes is its own.
        """
        for _ in range(SWEEPS):
            folders = {file.name.rpartition("/")[0] for file in self.output.partial_files()}
            left = [name for name in finished if self.output.partial(name) in folders]
            for name in left:
                remove_stretches(self.output, name)
            if not left:
                return
            time.sleep(SWEEP_S)

    def publishable(self, message: str | None) -> str | None:
        """A message whose paths begin below the folder of the inputs or the output: rows and records are published."""
        if not message:
            return message
        return self._folders.sub(lambda found: "" if found[0].endswith("/") else ".", scrub(message))

    @cached_property
    def _folders(self) -> re.Pattern[str]:
        """The two folders, wherever a message names them; inputs that have no common folder are named in full."""
        folders = public_url(self.wanted.inputs.root).rstrip("/"), self._root
        either = "|".join(re.escape(folder) for folder in folders if folder)
        return re.compile(rf"(?<![\w.~/-])(?:{either})(?:/|(?![\w.~-]))")

    @property
    def _root(self) -> str:
        """The output folder as errors of the system name it."""
        address = self.output.address
        return address if is_remote(address) else str(Path(address).absolute())

    def _settle(self, mine: ShardReport) -> None:
        """Makes the record fit the output, in case another process has replaced one of the two.

        Every process looks after it has written a record, so the last one to write finds out.
        """
        while True:
            with self.output.store.local(self.output.data(mine.shard)) as path, path.open("rb") as file:
                output, record = OutputFile(sha256_of(file), file.tell()), self.record(mine.shard)
                if record is not None and record.output == output:
                    return
                logger.warning("shard %s: another process has finished it too", mine.shard)
                mine = replace(recount(file, mine), output=output)
            write_record(self.output, mine)

    def _versions(
        self, shard: Shard, version: Identity, record: ShardReport | None
    ) -> str | Mapping[int, str | None] | None:
        """The version that rows must have to count, by index if versions differ; None means any."""
        if shard.kind != "folder":
            return version.text
        keep = record is not None and record.status == "complete" and not self.redo_changed
        alive = {i: file for i, file in enumerate(shard.files) if file is not None}
        return {i: None if keep or not is_known(file.version) else file.version for i, file in alive.items()}

    def _find(
        self, shard: Shard, record: ShardReport | None, data: Mapping[str, int], unfinished: Collection[str]
    ) -> _Finding:
        """`data`: the sizes of the files of captions by name; `unfinished`: the folders that have stretches."""
        if record is None:
            return _Finding("new")
        if record.status != "complete":
            return _Finding(record.status)
        if record.output is None or data.get(self.output.data(shard.name)) != record.output.size_bytes:
            return _Finding("output missing")
        finding = _compare(shard, record) if shard.kind == "folder" else self._compare_file(shard, record)
        if finding.changed and self.redo_changed:
            return replace(finding, reason="changed")
        if finding.reason is None:
            # a run was killed after it wrote the done-record and before it removed the stretches
            if self.output.partial(shard.name) in unfinished:
                remove_stretches(self.output, shard.name, before_ns=record.finished_ns)
            if any(status in self.retry or "all" in self.retry for status in record.failed):
                # no row counts if the tar or Parquet file is another one now
                return replace(finding, reason="changed" if finding.changed and shard.kind != "folder" else "retry")
        return finding

    def _compare_file(self, shard: Shard, record: ShardReport) -> _Finding:
        try:
            now = self.wanted.version_of(shard)
        except ShardError as error:
            logger.warning("%s is done, but its input %s", public_url(shard.url), error)
            return _Finding(None)
        return _Finding(None, () if now == record.input else (shard.url,))

    def _warn(self, shards: Sequence[Shard], findings: Sequence[_Finding]) -> None:
        """Warns in one sentence about all units of a folder, and in one about all shards that are files."""
        changed: dict[str, list[str]] = {}
        gone: dict[str, list[str]] = {}
        for shard, finding in zip(shards, findings, strict=True):
            where = f" of {public_url(shard.url)}" if shard.kind == "folder" else ""
            if finding.reason != "changed":
                changed.setdefault(where, []).extend(map(public_url, finding.changed))
            gone.setdefault(where, []).extend(finding.gone)
        for where, names in changed.items():
            if names:
                have, they_were, them = ("have", "they were", "them") if len(names) > 1 else ("has", "it was", "it")
                what = f"{counted(len(names), 'image' if where else 'shard')}{where} {have} changed since {they_were}"
                logger.warning("%s captioned: %s. Give --redo-changed to caption %s anew.", what, some(names), them)
        for where, names in gone.items():
            if names:
                are, rows = ("are", "their rows") if len(names) > 1 else ("is", "its row")
                what = f"{counted(len(names), 'image')}{where} {are} gone"
                logger.warning("%s: %s. Give --prune to remove %s.", what, some(names), rows)


def is_known(version: str | None) -> bool:
    """Whether a version is known; it is not if the image is gone or could not be asked for."""
    return version is not None and not version.endswith(":unknown")


def _compare(shard: Shard, record: ShardReport) -> _Finding:
    """Compares the images of a unit with its record."""
    alive = {file.path: file.version for file in shard.files if file is not None}
    if record.files.keys() - alive.keys():
        return _Finding("pruned")
    if alive.keys() - record.files.keys():
        return _Finding("interrupted")
    changed = [path for path, version in alive.items() if is_known(version) and version != record.files[path]]
    gone = [path for path, version in alive.items() if version is None]
    return _Finding(None, tuple(changed), tuple(gone))
