"""How far an output is and who is at work on it, while it is made or after: from the output alone, by any machine.

Done-records say what is done, notes of processes what is being done, and the run file what devices have cost.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import reduce
from itertools import islice
from typing import Any, Literal

from recap_fast.progress import OnProgress, unwatched
from recap_fast.write.done_record import read_counts
from recap_fast.write.opening import read_lists
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import Usage, read_run
from recap_fast.write.usage import add_usage, rates, usage_of
from recap_fast.write.workers import Worker, find_workers

NUM_THREADS = 32
"""How many threads read done-records: over a network each takes its time."""
AT_ONCE = 1024
"""How many done-records are read before they are counted: a billion images have 100,000."""

State = Literal["finished", "running", "failed", "idle"]


@dataclass(slots=True, kw_only=True)
class Status:
    """How far an output is."""

    num_shards: int
    ended: Counter[str] = field(default_factory=Counter)
    """Shards that ended and are in nobody's work, by status: 'complete', 'truncated', 'failed'."""
    in_work: int = 0
    """Shards that processes which live are captioning."""
    rows: int = 0
    """Rows of the shards that ended."""
    captioned: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Rows without a caption of the shards that ended, by status."""
    at_work: tuple[Worker, ...] = ()
    """The processes that live."""
    silent: tuple[Worker, ...] = ()
    """Processes that did not end in good order."""
    usage: Mapping[str, Usage] = field(default_factory=dict)
    """By name of the device, of all processes there were."""
    captions_per_image: int = 1
    prompts: tuple[str, ...] = ()
    """Their names, where rows have a list of captions."""
    is_drawn: bool = False
    """Whether some of them are drawn: an image gets one of several."""

    @property
    def left(self) -> int:
        """Shards that nobody has begun, or has given up."""
        return max(0, self.num_shards - self.ended.total() - self.in_work)

    @property
    def unclaimed(self) -> int:
        """Of the shards that have not ended, those that no process which lives is going to do."""
        claimed = sum(max(0, each.work.shards_total - each.work.shards_done) for each in self.at_work)
        return max(0, self.in_work + self.left - claimed)

    @property
    def images_per_s(self) -> float:
        """Captions a second over the last minutes, of all processes that live."""
        return sum(each.work.images_per_s or 0.0 for each in self.at_work)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the processes that live have done what is theirs, at that rate; None where it is not known."""
        known = [each.work.rows_left for each in self.at_work if each.work.rows_left is not None]
        return sum(known) / self.images_per_s if known and self.images_per_s else None

    @property
    def state(self) -> State:
        """Whether all is done, processes are at work, shards could not be read whole, or nobody is at work."""
        if self.at_work:
            return "running"
        if self.left or not self.num_shards:  # without shards, a run was killed while it began
            return "idle"
        return "finished" if self.ended["complete"] == self.num_shards else "failed"

    def as_json(self) -> dict[str, Any]:
        """What a program wants to know, for JSON."""
        return {
            "state": self.state,
            "shards": {
                "total": self.num_shards,
                **{status: self.ended[status] for status in ("complete", "truncated", "failed")},
                "in_work": self.in_work,
                "left": self.left,
                "unclaimed": self.unclaimed,
            },
            "rows": self.rows,
            "captioned": self.captioned,
            "failed": dict(self.failed),
            "captions_per_image": self.captions_per_image,
            "prompts": list(self.prompts),
            "is_drawn": self.is_drawn,
            "images_per_s": round(self.images_per_s, 3),
            "eta_s": None if self.eta_s is None else round(self.eta_s, 1),
            "workers": [_as_json(each) for each in self.at_work],
            "silent": [_as_json(each) for each in self.silent],
            "usage": {device: asdict(used) for device, used in self.usage.items()},
            "rates": [
                {"images_per_hour": round(rate.images_per_hour, 1), "unit": rate.unit} for rate in rates(self.usage)
            ],
        }


def _as_json(worker: Worker) -> dict[str, Any]:
    return {**asdict(worker.work), "note_age_s": round(worker.silent_s, 1)}


def find_status(output: OutputFolder, progress: OnProgress = unwatched) -> Status:
    """Looks at an output. Memory is O(names of shards). Raises ConfigError if it is not the output of a run.

    `progress` is told how many done-records were read. Whether a process of another machine lives is told by the age of
    its note: for that the clocks of this machine and of the store must agree within half a minute.
    """
    run = read_run(output)
    workers = find_workers(output.store, time.time())
    at_work = tuple(each for each in workers if each.lives)
    named = {name for each in at_work for name in each.work.shards}
    lists = read_lists(output, run)
    status = Status(
        num_shards=len(run.shards),
        in_work=len(named) + sum(each.work.num_open - len(each.work.shards) for each in at_work),
        at_work=at_work,
        silent=tuple(each for each in workers if not each.lives),
        usage=reduce(add_usage, (usage_of(each.work) for each in workers), run.usage),
        captions_per_image=len(lists.prompts) or 1,
        prompts=tuple(name for each in lists.prompts[:: lists.num_captions] for name in each),
        is_drawn=any(len(each) > 1 for each in lists.prompts),
    )
    _count(status, output, run.shards, named, progress)
    return status


def _count(
    status: Status, output: OutputFolder, shards: Collection[str], in_work: Collection[str], progress: OnProgress
) -> None:
    """Adds what the done-records say; of shards in work, which are done again, only the rows."""
    names = (output.shard_of(file.name) for file in output.record_files())
    num_read = 0
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for some in _batches((name for name in names if name in shards), AT_ONCE):
            for name, counts in zip(some, pool.map(lambda name: read_counts(output, name), some), strict=True):
                if counts is None:
                    continue
                status.ended[counts.status] += name not in in_work
                status.rows += counts.rows
                status.captioned += counts.captioned
                status.failed.update(counts.failed)
            num_read += len(some)
            progress(num_read, len(shards))


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
