from dataclasses import dataclass, replace

import pytest
from support.coordination import Clock, FakeWorker

from recap_fast.generate.engine import Statistics
from recap_fast.launch.cluster.protocol import Tally
from recap_fast.launch.cluster.totals import Totals, add
from recap_fast.pipeline.counters import STAGES, RunCounters, Workers


def say(totals, name, *, rows, seconds, new_shards=1, new_rows=100, kept=0, failed=None, busy=0.5, boot_s=3.0):
    failed = failed or {}
    snapshot = replace(
        RunCounters(0).snapshot(),
        seconds=seconds,
        rows=rows,
        captioned=rows - sum(failed.values()),
        failed=failed,
        num_tokens=10 * rows,
        cut=1,
        shared=rows // 4,
        busy=dict.fromkeys(STAGES, busy),
    )
    tally = Tally(snapshot=snapshot, new_shards=new_shards, new_rows=new_rows, kept=kept)
    totals.hear(replace(FakeWorker(name).message(), tally=tally, boot_s=boot_s))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def totals(clock):
    return Totals(10, num_rows=None, kept=50, limit=None, clock=clock)


def test_before_anything_was_heard_nothing_is_known(totals):
    s = totals.snapshot()
    assert (s.seconds, s.rows, s.kept, s.total, s.eta_s, s.shards_done, s.shards_total) == (0, 0, 50, None, None, 0, 10)
    assert s.workers == Workers(num=0, starting=0, waiting=0, images_per_s=0.0)


def test_workers_are_added_up_and_shards_that_were_not_opened_are_like_those_that_were(totals, clock):
    say(totals, "1", rows=40, seconds=20.0, new_shards=1, new_rows=100, kept=10, failed={"corrupt": 2, "truncated": 1})
    say(totals, "2", rows=20, seconds=10.0, new_shards=2, new_rows=200, busy=0.7, failed={"corrupt": 1})
    totals.shards_done = 1
    s = totals.snapshot()
    assert (s.seconds, s.rows, s.captioned, s.failed) == (20.0, 60, 56, {"corrupt": 3, "truncated": 1})
    assert (s.num_tokens, s.cut, s.shared, s.shards_done) == (600, 2, 15, 1)
    assert (s.kept, s.total, s.is_estimate) == (60, 50 + 1000, True)
    assert s.busy["generate"] == pytest.approx(0.6)
    assert s.eta_s == pytest.approx((1000 - 10 - 60) / (60 / 20))
    clock.now += 10
    assert totals.snapshot().seconds == 30.0


def test_rows_that_are_known_are_no_estimate(clock):
    totals = Totals(10, num_rows=500, kept=0, limit=None, clock=clock)
    say(totals, "1", rows=40, seconds=20.0)
    assert (totals.snapshot().total, totals.snapshot().is_estimate) == (500, False)
    limited = Totals(10, num_rows=None, kept=0, limit=60, clock=clock)
    say(limited, "1", rows=40, seconds=20.0)
    assert (limited.snapshot().total, limited.snapshot().is_estimate, limited.snapshot().eta_s) == (60, False, 10.0)


def test_the_present_rate_is_that_of_the_last_minute(totals, clock):
    say(totals, "1", rows=10, seconds=100.0)
    totals.note()
    clock.now += 30
    say(totals, "1", rows=310, seconds=130.0, failed={"corrupt": 30})
    totals.note()
    assert totals.snapshot().workers.images_per_s == pytest.approx((280 - 10) / 30)
    assert totals.snapshot().eta_s == pytest.approx((1000 - 310) / 10)
    for _ in range(10):
        clock.now += 30
        totals.note()
    assert totals.snapshot().workers.images_per_s == pytest.approx(280 / 430)  # of all, where nothing comes


def test_what_one_that_is_gone_has_done_still_counts(totals):
    say(totals, "1", rows=40, seconds=20.0)
    say(totals, "2", rows=0, seconds=0.0, new_shards=0, new_rows=0, boot_s=None)
    totals.set_waiting(3)
    workers = totals.snapshot().workers
    assert (workers.num, workers.starting, workers.waiting) == (1, 1, 3)
    totals.forget("1")
    totals.forget("unknown")
    assert totals.snapshot().rows == 40
    assert totals.snapshot().workers.num == 0


@dataclass(frozen=True)
class Some:
    number: float
    by_name: dict
    names: tuple
    is_so: bool = True


def test_records_are_added_field_by_field():
    found = add([Some(1, {"a": 1.5}, ("x",)), Some(2, {"a": 1, "b": {"c": 1}}, ("y",)), Some(3, {"b": {"c": 2}}, ())])
    assert found == Some(6, {"a": 2.5, "b": {"c": 3}}, ("x", "y"))


def test_statistics_are_added():
    one = Statistics(images=3, idle_s={"input": 1.0, "host": 2.0}, startup_s={"weights": 1.0})
    assert add([Statistics(), one, one]) == Statistics(
        images=6, idle_s={"input": 2.0, "host": 4.0}, startup_s={"weights": 2.0}
    )
