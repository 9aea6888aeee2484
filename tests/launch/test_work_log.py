import dataclasses
import os

import pytest

from recap_fast.launch.work_log import WINDOW_S, Device, WorkLog
from recap_fast.pipeline.counters import Gauges, RunCounters
from recap_fast.store.local import LocalStore
from recap_fast.write.workers import MAX_SHARDS, Work, read_note, write_note

BEFORE = RunCounters(12).snapshot()


class Run:
    """Says of itself what it is told."""

    def __init__(self):
        self.snapshot = BEFORE
        self.log = WorkLog(lambda: self.snapshot, (2, 8))

    def at(self, seconds: float, captioned: int, **changed) -> Work:
        self.snapshot = dataclasses.replace(BEFORE, seconds=seconds, captioned=captioned, rows=captioned, **changed)
        return self.log.work()


@pytest.fixture
def run():
    return Run()


def test_a_process_says_who_it_is_and_what_it_does(run, tmp_path):
    before = run.log.work()
    assert (before.pid, before.part, before.device, before.state) == (os.getpid(), "3/8", "", "starting")
    assert (before.shards, before.rows_left, before.images_per_s, before.shards_total) == ((), None, None, 12)
    run.log.find_state, run.log.device = lambda: "running", Device("H100", True)
    names = tuple(f"{number:05d}" for number in range(20))
    gauges = Gauges(open_shards=names)
    work = run.at(10, 30, failed={"truncated": 2}, gauges=gauges, total=100, kept=20, held_s=15.0, shards_done=4)
    assert (work.state, work.device, work.is_gpu) == ("running", "H100", True)
    assert (work.shards, work.num_open) == (names[:MAX_SHARDS], 20)
    assert (work.rows_left, work.failed, work.held_s, work.shards_done) == (50, {"truncated": 2}, 15.0, 4)
    write_note(LocalStore(tmp_path), "workers/a.json", work)
    assert read_note(LocalStore(tmp_path), "workers/a.json") == work


def test_the_rate_is_that_of_the_last_minutes(run):
    assert run.at(0, 0).images_per_s is None, "nothing was read yet"
    assert run.at(0, 0).images_per_s is None
    assert run.at(10, 50).images_per_s == 5
    assert run.at(100, 500).images_per_s == 5
    assert run.at(WINDOW_S + 100, 500).images_per_s == 0, "it stands still"
    assert run.at(WINDOW_S + 110, 600).images_per_s == pytest.approx(100 / (WINDOW_S + 10))
    assert run.at(2 * WINDOW_S + 100, 1100).images_per_s == 2
