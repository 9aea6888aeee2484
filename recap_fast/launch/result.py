"""What a run came to."""

from dataclasses import dataclass
from pathlib import Path

from recap_fast.errors import ExitCode
from recap_fast.generate.engine import Statistics
from recap_fast.pipeline.counters import Snapshot
from recap_fast.records import ShardReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run did and how it ended."""

    outcome: ExitCode
    """COMPLETE; FAILURE where a shard could not be read whole; ERROR_RATE where too many images have no caption;
    DRAINED where a signal stopped it: the same call goes on from there."""
    output: Path
    reports: tuple[ShardReport, ...]
    """One for each shard that ended in this run, and for each that was begun and not finished."""
    snapshot: Snapshot
    """Counts and rates of this run; earlier runs into the same folder are not in it."""
    statistics: Statistics
    """What the engine did."""
