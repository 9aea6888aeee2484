"""Notes which images are being decoded: if the process dies, the next run handles those with care.

A decoder written in C may crash, and the process with it. The same shard would then end every run. So each process has
a file in the output folder whose first line says which samples it is decoding, or is empty. Nothing is synced: the
process dies, not the machine. Samples go in as (shard, index); out comes how often each of them has ended a process.
"""

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Self

from recap_fast.atomic import is_alive, make_folder, owner
from recap_fast.write.output_folder import OutputFolder

logger = logging.getLogger(__name__)

Samples = Sequence[tuple[str, int]]
"""(shard, index) of each."""
_ABANDONED_S = 60.0
"""Notes of other machines count after this time: no batch takes that long to decode."""
_OWN: set[Path] = set()


class DecodeNotes:
    """The notes of one run; for one thread. A run that cannot keep notes goes on without."""

    def __init__(self, output: OutputFolder, is_done: Callable[[str], bool]) -> None:
        """`is_done` says whether a shard is finished: notes about it are then useless."""
        self._root, self._folder, self._is_done = output.store.scratch, output.decoding, is_done
        self._path = self._folder / f"{owner()}~{secrets.token_hex(4)}.json"
        self._descriptor: int | None = None
        self._tries: dict[tuple[str, int], int] = {}
        self._dead_owners: set[str] = set()

    def open(self) -> Self:
        """Reads the notes of dead processes, and begins a file of its own."""
        for path in self._find(self._is_dead):
            self._read(path)
        try:
            make_folder(self._folder, self._root)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
        except OSError as error:
            logger.warning("%s cannot be written (%s): if a decoder crashes, it will crash again", self._path, error)
        else:
            _OWN.add(self._path)
        return self

    def died(self, owners: Collection[str]) -> None:
        """Says that these processes have died, as `atomic.owner` names them, wherever that was. Any thread may."""
        self._dead_owners.update(owners)

    def look_again(self) -> None:
        """Reads the notes of processes that have died since: they may have had what this one has now."""
        for path in self._find(self._is_surely_dead):
            self._read(path)

    def tries(self, shard: str, index: int) -> int:
        """How often a process died while it was decoding this sample, alone or among others."""
        return self._tries.get((shard, index), 0)

    @contextlib.contextmanager
    def decoding(self, samples: Samples) -> Iterator[None]:
        """Notes that these samples are being decoded: two short writes, a few microseconds on a local disk."""
        note = [[shard, index, self.tries(shard, index) + 1] for shard, index in samples]
        self._write(json.dumps(note).encode() + b"\n")
        yield
        self._write(b"\n")  # not after an exception: then the process is about to end

    def close(self) -> None:
        """Removes the file, and those of dead processes whose shards are all finished."""
        for path in self._find(self._is_dead):
            self._read(path)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            with contextlib.suppress(OSError):  # gone with its folder: what ends the run is to say so
                self._path.unlink()
            _OWN.discard(self._path)
        with contextlib.suppress(OSError):  # files of others are there
            self._folder.rmdir()

    def _write(self, line: bytes) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # a full disk is for the rows to find out
                os.pwrite(self._descriptor, line, 0)

    def _find(self, is_dead: Callable[[Path], bool]) -> list[Path]:
        """The notes of processes that have ended."""
        try:
            paths = list(self._folder.iterdir())
            return [path for path in paths if path.suffix == ".json" and path.is_file() and is_dead(path)]
        except OSError:
            return []

    def _is_dead(self, path: Path) -> bool:
        return self._is_surely_dead(path) or _is_abandoned(path)

    def _is_surely_dead(self, path: Path) -> bool:
        name = path.stem.rpartition("~")[0]
        if path in _OWN:
            return False
        # of our own name was an earlier process
        return name == owner() or name in self._dead_owners or not is_alive(name)

    def _read(self, path: Path) -> None:
        try:
            line = path.read_bytes().partition(b"\n")[0]
            notes = {(str(shard), int(index)): int(tries) for shard, index, tries in json.loads(line or b"[]")}
        except FileNotFoundError:
            return
        except (OSError, OverflowError, RecursionError, TypeError, ValueError) as error:
            logger.warning("%s is damaged and ignored: %s", path, error)
            notes = {}
        open_notes = {sample: tries for sample, tries in notes.items() if not self._is_done(sample[0])}
        for sample, tries in open_notes.items():
            self._tries[sample] = max(tries, self._tries.get(sample, 0))
        if not open_notes:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    """Whether it is of another machine and so old that no process is still decoding what it names."""
    name = path.stem.rpartition("~")[0]
    is_elsewhere = name.rpartition("~")[0] != owner().rpartition("~")[0]
    try:
        return is_elsewhere and time.time() - path.stat().st_mtime > _ABANDONED_S
    except OSError:
        return False
