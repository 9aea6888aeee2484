"""`metrics.jsonl` in the output: the figures of a run over time, one JSON object a line, for whoever draws curves."""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from os import SEEK_END
from pathlib import Path
from typing import IO

from recap_fast.beat import every
from recap_fast.launch.metrics import metric_fields
from recap_fast.pipeline.counters import Snapshot
from recap_fast.store.local import LocalStore
from recap_fast.store.store import Store

LINE_S = 60.0
"""A line a minute: a day has 1,440, of some 700 bytes each."""
LINES_A_PUT = 10
"""An object store cannot append: the file is written anew every ten minutes, and at the end."""
MAX_BYTES = 64 << 20
"""Largest file that an object store's is continued from: months of one process. A longer one begins anew."""


def metrics_file(
    store: Store, name: str, read: Callable[[], Snapshot], part: tuple[int, int]
) -> AbstractContextManager[object]:
    """Writes a line to the file of this name every minute meanwhile, and one at the end.

    The file goes on where an earlier process left it. Each process has an id of its own, and its counters begin at 0.
    Nothing names the machine. `part` is counted from 0. Each file is to have one writer at a time.
    """
    lines = _Lines(read, part)
    if isinstance(store, LocalStore):
        path = store.root / name
        write = last = lambda: _append(path, lines.next())
    else:
        write, last = (upload := _Upload(store, name, lines)).add, upload.finish
    return every(LINE_S, write, last, f"{store.shown(name)} cannot be written, so it lacks lines")


class _Lines:
    """Makes the lines of one process."""

    def __init__(self, read: Callable[[], Snapshot], part: tuple[int, int]):
        self._read, self._part = read, f"{part[0] + 1}/{part[1]}"
        self._process = secrets.token_hex(4)
        self._before = (time.monotonic(), 0)

    def next(self) -> bytes:
        """The line of now."""
        snapshot, now, (then, captioned) = self._read(), time.monotonic(), self._before
        self._before = now, snapshot.captioned
        rate = (snapshot.captioned - captioned) / (now - then) if now > then else 0.0
        head: Mapping[str, object] = {"time": round(time.time(), 3), "process": self._process, "part": self._part}
        return json.dumps({**head, "images_per_s": round(rate, 3), **metric_fields(snapshot)}).encode() + b"\n"


def _append(path: Path, line: bytes) -> None:
    with path.open("ab+", buffering=0) as file:  # one write, so that a line of another process is not cut in two
        file.write(_start(_last_byte(file)) + line)


def _last_byte(file: IO[bytes]) -> bytes:
    file.seek(max(0, file.seek(0, SEEK_END) - 1))
    return file.read(1)


def _start(content: bytes | bytearray) -> bytes:
    """What ends a line that was cut, by a full disk for example."""
    return b"" if content.endswith(b"\n") or not content else b"\n"


class _Upload:
    """Writes the whole file anew now and then."""

    def __init__(self, store: Store, name: str, lines: _Lines):
        self._store, self._name, self._lines = store, name, lines
        self._content: bytearray | None = None
        self._num_new = 0

    def add(self) -> None:
        """Takes another line."""
        self._take()
        if self._num_new >= LINES_A_PUT:
            self._put()

    def finish(self) -> None:
        """Takes the last line."""
        self._take()
        self._put()

    def _take(self) -> None:
        if self._content is None:
            self._content = bytearray(self._read())
            self._content += _start(self._content)
        self._content += self._lines.next()
        self._num_new += 1

    def _read(self) -> bytes:
        try:
            return self._store.read(self._name, MAX_BYTES)[0]
        except (FileNotFoundError, ValueError):
            return b""

    def _put(self) -> None:
        self._store.put(self._name, bytes(self._content or b""))
        self._num_new = 0
