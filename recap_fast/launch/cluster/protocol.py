"""What workers, coordinator and driver tell each other: names, reports and counters, never images or rows."""

import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recap_fast.pipeline.counters import Snapshot
from recap_fast.records import Shard, ShardReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a worker has done since it began."""

    snapshot: Snapshot
    """Its `kept`, `total` and shards are those that it has opened, whoever had them before."""
    new_shards: int = 0
    """Shards that it was the first of this run to open."""
    new_rows: int = 0
    """Their samples."""
    kept: int = 0
    """Of these, the rows that earlier runs have done."""


@dataclass(frozen=True, slots=True)
class Saying:
    """A log record of a worker."""

    level: int
    """As logging has it."""
    logger: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a worker says of itself each time that it calls."""

    worker: str
    node: str
    """Id of the node that it is on."""
    owner: str
    """Its process, as `atomic.owner` names it."""
    age_s: float
    """Seconds since its process was there."""
    boot_s: float | None = None
    """Seconds from then until its engine was open; None while it is not."""
    engine: str = ""
    """What the engine says of itself, once it is open."""
    device: str = ""
    """What it runs on."""
    is_gpu: bool = False
    holds: tuple[str, ...] = ()
    """The shards that it was given and has not reported on."""
    reports: tuple[ShardReport, ...] = ()
    """Of shards that have ended since the last message."""
    tally: Tally | None = None
    said: tuple[Saying, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the coordinator answers."""

    instance: str
    """Another one after the coordinator was started again: it then wants to know all reports once more."""
    shard: bytes | None = None
    """A shard, packed; None where there is none for this worker now."""
    wait: bool = False
    """Whether one may come later; if not, the worker finishes what it has and ends."""
    again: bool = False
    """Whether another process had the shard in this run, and perhaps finished it."""
    dead: tuple[str, ...] = ()
    """Processes that died while they had it, as `atomic.owner` names them."""
    drain_s: float | None = None
    """In so many seconds the worker must end, and takes nothing new."""
    pause_s: float = 1.0
    """Until the next message, or until asking again for a shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What became of the shards of a worker that is gone."""

    deaths: Mapping[str, int] = field(default_factory=dict)
    """Of the shards that it held, how many processes have died with each."""
    condemned: tuple[str, ...] = ()
    """Those that are handed out no more."""


@dataclass(slots=True, kw_only=True)
class Heard:
    """What a worker has said since the driver last asked."""

    message: Message
    """The newest one; what it reports and says is below."""
    reports: list[ShardReport] = field(default_factory=list)
    said: list[Saying] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where the coordinator stands."""

    instance: str
    is_lost: bool
    """Whether it was just started and wants to be told what there is."""
    pending: int
    """Shards that nobody has."""
    held: int
    """Shards that workers have."""
    heard: Mapping[str, Heard]
    """By worker, since the driver last asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the driver knows, for a coordinator that was just started."""

    workers: Mapping[str, Message]
    """The last message of each worker that lives."""
    ended: tuple[str, ...]
    """Shards that have ended, or are handed out no more."""
    given: tuple[str, ...]
    """Other shards that a worker had at some time."""
    deaths: Mapping[str, int]
    gone: tuple[str, ...]
    """Workers that are no more."""


def pack(shard: Shard) -> bytes:
    """A shard as bytes: a unit of 1,000 loose images is 20 kB so, a tar 150 bytes."""
    return zlib.compress(pickle.dumps(shard), 1)


def unpack(packed: bytes) -> Shard:
    """The shard that was packed."""
    shard: Any = pickle.loads(zlib.decompress(packed))  # of our own, from `pack`
    assert isinstance(shard, Shard)
    return shard
