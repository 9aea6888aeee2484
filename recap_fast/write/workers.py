"""Notes of the processes at work on an output: who they are, what they are captioning and how far they are.

`workers/<shards>~<token>~<machine>~<process id>.json`, of which `<shards>` stands for the shards that are the process's
own. Read back, a note is one of a process that lives or of one that went silent.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from recap_fast.atomic import is_alive, owner
from recap_fast.store.store import Store, StoredFile
from recap_fast.write.output_folder import WORKERS
from recap_fast.write.typed_json import read_json, typed

FORMAT = 1
MAX_BYTES = 1 << 20
"""Largest note that is read; a usual one has 700 bytes."""
BEAT_S = 15.0
"""A note is written anew this often: soon enough for people who look, and 240 small files an hour cost an object store
some 0.1 % of what an hour of a GPU does."""
SILENT_S = 4 * BEAT_S
"""Of another machine, a process whose note is older does not live: a slow write, or three lost ones, are forgiven."""
PAUSED_S = 3600.0
"""A process of this machine that writes nothing may be paused; after this time its number is another one's."""
NUM_THREADS = 32
"""How many threads read notes: over a network each takes its time."""
MAX_SHARDS = 8
"""Most shards that a note names; a process seldom has more than three open."""

OWN: set[str] = set()
"""Names of the notes of this process. Others with its number are of processes that had it before."""

State = Literal["starting", "running", "stopping", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a process does, as it says itself."""

    host: str
    pid: int
    part: str
    """Such as '3/8'; '1/1' where the process does it all."""
    device: str
    """'' before the engine is open."""
    is_gpu: bool
    started_s: float
    """When the process began, by its machine's clock, since 1970."""
    state: State
    held_s: float
    """Seconds for which it has held its device."""
    shards: tuple[str, ...] = ()
    """Names of shards that it is captioning, at most `MAX_SHARDS`."""
    num_open: int = 0
    """How many these are in all."""
    shards_done: int = 0
    shards_total: int = 0
    """Shards that it had to do when it began."""
    rows: int = 0
    """Rows that it has finished."""
    captioned: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    rows_left: int | None = None
    """None where that is not known."""
    images_per_s: float | None = None
    """Captions a second over the last minutes; None before there are any."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A process's note as it was found."""

    work: Work
    lives: bool
    silent_s: float
    """Seconds since it wrote the note."""


def note_name(shards: Iterable[str], token: str, process: str) -> str:
    """The name of the note of a process (see `atomic.owner`) that has these shards; the token tells two runs apart."""
    names = "\n".join(shards).encode("utf-8", "surrogatepass")
    return f"{WORKERS}/{hashlib.sha256(names).hexdigest()[:16]}~{token}~{process}.json"


def write_note(store: Store, name: str, work: Work) -> None:
    """Writes a note whole. Raises OSError."""
    store.put(name, _content(work))


def take_over(store: Store, name: str) -> Work | None:
    """What the note of a dead process says, for the one process that asks first; the note is gone then."""
    try:
        _, version = store.read(name, MAX_BYTES)
        work = read_note(store, name)
        is_mine = work is not None and store.replace(name, _content(replace(work, state="ended")), version)
    except (FileNotFoundError, ValueError):
        return None
    store.delete([name])
    return work if is_mine and work is not None and work.state != "ended" else None


def read_note(store: Store, name: str) -> Work | None:
    """What a note says; None where it is gone or cannot be read."""
    try:
        return typed(Work, read_json(store, name, FORMAT, MAX_BYTES))
    except (OSError, ValueError):
        return None


def _content(work: Work) -> bytes:
    return (json.dumps({"format": FORMAT, **asdict(work)}) + "\n").encode()


def of_same_shards(files: Iterable[StoredFile], name: str) -> Iterator[StoredFile]:
    """Of some notes, those of other processes with the same shards as the process with the note `name`."""
    shards = name.partition("~")[0]
    return (file for file in files if file.name != name and file.name.partition("~")[0] == shards)


def lives(file: StoredFile, now_s: float) -> bool:
    """Whether the process that has written a note lives; `now_s` is the time by the store's clock."""
    process = file.name.removesuffix(".json").split("~", 2)[-1]
    if file.name in OWN or process == owner():
        return file.name in OWN
    age_s = now_s - file.modified_s
    return age_s < PAUSED_S and is_alive(process, elsewhere=age_s < SILENT_S)


def find_workers(store: Store, now_s: float) -> list[Worker]:
    """All notes that can be read, read side by side; `now_s` is the time by the store's clock."""
    files = list(store.list(WORKERS))
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = pool.map(lambda file: read_note(store, file.name), files)
        return [
            Worker(work, lives(file, now_s), max(0.0, now_s - file.modified_s))
            for file, work in zip(files, found, strict=True)
            if work is not None
        ]
