"""Writes shards of an export in several processes: Python's part of the work is as large as the disk's.

Each process gets what it needs once, when it begins, and then one shard at a time. It ends with the process that has
started it, however that ends.
"""

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import wait as wait_for

from recap_fast.atomic import remove_leftovers
from recap_fast.errors import ShardError
from recap_fast.export.target import Draft, Target
from recap_fast.records import Shard
from recap_fast.shards.patience import patience, read_timeout

Write = Callable[[Shard, Draft], None]
"""Writes the files of a shard. It is pickled, so it is a function of a module, or a `partial` of one."""


@dataclass(frozen=True, slots=True)
class Task:
    """A shard to write."""

    shard: Shard
    version: str
    rows: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a shard."""

    task: Task
    counts: Counter[str]
    problem: str | None = None
    """Why it cannot be exported."""
    is_elsewhere: bool = False
    """Whether another process wrote it."""


def write_shard(write: Write, target: Target, task: Task) -> Outcome:
    """Writes one shard here and now."""
    try:
        with target.draft(task.shard.name, task.version) as draft:
            write(task.shard, draft)
    except ShardError as error:
        return Outcome(task, Counter(), str(error))
    return Outcome(task, draft.counts)


def write_side_by_side(write: Write, target: Target, tasks: Iterable[Task], num: int) -> Generator[Outcome]:
    """Writes shards in so many processes, this one among them, and returns what comes of them as they end.

    Raises what a process raises; the others end with the shards that they are at, which stay unwritten.
    """
    others = set(multiprocessing.active_children())
    spawning = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(num - 1, spawning, _begin, (write, target, read_timeout()))
    tasks, running = iter(tasks), set[Future[Outcome]]()
    try:
        while True:
            running |= {executor.submit(_work, task) for task in islice(tasks, 2 * (num - 1) - len(running))}
            own = next(tasks, None)
            if own is not None:
                yield write_shard(write, target, own)
            elif not running:
                break
            done, running = wait(running, 0 if own is not None else None, FIRST_COMPLETED)
            yield from (future.result() for future in done)
        executor.shutdown()
    finally:
        cut_off = set(multiprocessing.active_children()) - others
        for process in cut_off:
            process.terminate()
        executor.shutdown(cancel_futures=True)  # waits for them: it alone does, as whoever comes second learns nothing
        if cut_off:
            remove_leftovers(target.folder)


_given: tuple[Write, Target, float]
"""What a process that writes shards was given."""


def _begin(*given: object) -> None:
    global _given
    _given = given  # type: ignore[assignment]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal it goes to all; the first process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _work(task: Task) -> Outcome:
    write, target, seconds = _given
    with patience(seconds):
        return replace(write_shard(write, target, task), is_elsewhere=True)
