"""Runs into a bucket that are disturbed by a schedule: the network errs, processes are killed, two do the same.

What is drawn follows from a seed. How the processes' threads and requests interleave does not; the rows must.
"""

import random
import re
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from support.cloud_runs import CloudOutput, succeed
from support.fault_proxy import MANY, Fault, FaultProxy, Schedule, seeded
from support.runs import Command

FAULTS = (*MANY, Fault("delay"))
MOMENTS = {"change": 70, "row": 40}
"""The last ones at which a process is killed: a run from the start has some 110 and 36."""
ENDS = (0, 75, -signal.SIGKILL)
_UNIQUE = re.compile(r"\.\d{10,}\.[^/?]*|[0-9a-f]{32,}[^/?]*")
"""What names of stretches have of their time, process and content."""


@dataclass
class Tally:
    """Of all disturbed runs."""

    runs: int = 0
    ends: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    """Rows."""
    lost: int = 0
    doubled: int = 0

    def __str__(self) -> str:
        ends, faults = (dict(sorted(each.items())) for each in (self.ends, self.faults))
        rows = f"{self.compared:,} rows compared, {self.lost} lost, {self.doubled} doubled"
        return f"{self.runs} disturbed runs, exit codes {ends}, faults {faults}: {rows}"

    def compare(self, found: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
        """Counts, before anything is asserted."""
        there = Counter((row["shard"], row["index"]) for row in found)
        self.compared += len(rows)
        self.lost += sum((row["shard"], row["index"]) not in there for row in rows)
        self.doubled += there.total() - len(there)


def disturb(
    seed: int, output: CloudOutput, proxy: FaultProxy, arguments: Sequence[object], rows: Any, tally: Tally
) -> None:
    """Repeats the command, disturbed, until it has come to its end; then everything is as of an undisturbed run."""
    draw = random.Random(seed)
    faults = draw.sample(FAULTS, draw.randint(2, len(FAULTS)))
    proxy.schedule = steady(seeded(draw.getrandbits(32), draw.choice((0.1, 0.2, 0.3)), faults))
    before = proxy.faults.copy()
    for _ in range(draw.randint(1, 3)):
        num, send = draw.choice((1, 1, 2)), draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        events = [draw.choice(list(MOMENTS)) for _ in range(num)]
        moments = [(send, event, draw.randint(1, MOMENTS[event])) for event in events]
        _note([output.server.start(*arguments, send=moment) for moment in moments], tally)
    _note([output.server.start(*arguments) for _ in range(draw.choice((1, 1, 2)))], tally)
    _note([output.server.start(*arguments, "--retry-failed", "crashed")], tally)
    succeed(output.server.run("verify", output.address))
    tally.faults.update(proxy.faults - before)
    proxy.schedule = lambda _: None
    found = output.rows()
    tally.compare(found, rows)
    assert found == rows, f"seed {seed}"
    succeed(output.server.run("verify", output.address))


def steady(schedule: Schedule) -> Schedule:
    """The same for names that differ each time."""
    return lambda request: schedule(replace(request, path=_UNIQUE.sub("", request.path)))


def _note(commands: Sequence[Command], tally: Tally) -> None:
    for command in commands:
        tally.runs += 1
        tally.ends[command.wait()] += 1
    for command in commands:
        assert command.code in ENDS, command.stderr
