"""What a run came to."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recap_fast.errors import ExitCode
from recap_fast.generate.engine import Statistics
from recap_fast.launch.progress_line import progress_fields
from recap_fast.pipeline.counters import Snapshot
from recap_fast.records import ShardReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run did and how it ended."""

    outcome: ExitCode
    """COMPLETE where all is done that the run was to do; FAILURE where a shard could not be read whole; ERROR_RATE
    where too many images have no caption; DRAINED where a signal stopped it: the same call goes on from there."""
    shards_left: int | None
    """Shards of the whole output that are not done, such as those of other parts and those behind a limit. None where
    a signal stopped the run: they were not counted."""
    output: str
    """Its path or URL."""
    captions: tuple[str, ...]
    """The folders with rows, as Parquet files: data/ of finished shards, partial/ of others."""
    reports: tuple[ShardReport, ...]
    """One for each shard that ended in this run, and for each that was begun and not finished."""
    snapshot: Snapshot
    """Counts and rates of this run; of earlier runs into the same folder it has `kept` alone."""
    statistics: Statistics
    """What the engine did."""

    @property
    def flags(self) -> Mapping[str, int]:
        """Rows with each flag, the most frequent first, of the shards that were finished in this run."""
        return count_flags(self.reports)

    def as_json(self) -> dict[str, Any]:
        """What a program wants to know of it, for JSON."""
        return {
            "outcome": self.outcome.name.lower(),
            "exit_code": int(self.outcome),
            "shards_left": self.shards_left,
            "output": self.output,
            "captions": list(self.captions),
            "flags": self.flags,
            **progress_fields(self.snapshot),
        }


def count_flags(reports: Sequence[ShardReport]) -> Mapping[str, int]:
    """The rows with each flag of all these shards, the most frequent first."""
    return dict(sum((Counter(report.flags) for report in reports), Counter[str]()).most_common())
