import numpy as np
import pytest

from recap_fast.pipeline import counters as counters_module
from recap_fast.pipeline.counters import RunCounters
from recap_fast.records import Completion


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told to."""
    now = [100.0]
    monkeypatch.setattr(counters_module.time, "monotonic", lambda: now[0])
    return now


def completion(num_tokens: int) -> Completion:
    return Completion(0, np.empty(0, np.int32), "stop", num_tokens)


def test_before_the_first_image_there_is_nothing_to_say(clock):
    s = RunCounters(3).snapshot()
    assert (s.seconds, s.rows, s.images_per_s, s.tokens_per_caption, s.eta_s) == (0, 0, 0, 0, None)
    assert (s.shards_done, s.shards_total) == (0, 3)


def test_rates_are_of_captions_and_the_time_since_the_first_image(clock):
    counters = RunCounters(1)
    clock[0] += 1000
    counters.start_shard(10, 0)
    clock[0] += 4
    counters.count("ok", [completion(30)])
    counters.count("ok", [completion(50)])
    counters.count("truncated", ())
    counters.finish_shard()
    s = counters.snapshot()
    assert (s.seconds, s.rows, s.captioned, s.failed) == (4, 3, 2, {"truncated": 1})
    assert (s.images_per_s, s.tokens_per_caption, s.shards_done) == (0.5, 40, 1)


def test_the_limiting_stage_is_the_busiest(clock):
    counters = RunCounters(1)
    counters.start_shard(10, 0)
    for stage, seconds in (("decode", 3), ("generate", 5), ("write", 1)):
        with counters.busy(stage):
            clock[0] += seconds
    s = counters.snapshot()
    assert s.limiting_stage == "generate"
    assert s.busy == pytest.approx({"read": 0, "decode": 3 / 9, "generate": 5 / 9, "write": 1 / 9})


def test_a_stage_is_timed_while_it_works_and_also_where_it_fails(clock):
    counters = RunCounters(1)
    counters.start_shard(10, 0)

    def read():
        clock[0] += 2
        yield "a"
        clock[0] += 3
        raise OSError("cut")

    got, told = [], []
    with pytest.raises(OSError, match="cut"):  # noqa: PT012 - the loop is what fails
        for item in counters.timed("read", read(), told.append):
            got.append(item)
            clock[0] += 15  # the next stage's time
    assert (got, told) == (["a"], [2, 3])
    assert counters.snapshot().busy["read"] == pytest.approx(5 / 20)


def test_the_time_to_go_counts_shards_not_yet_opened_and_rows_done_before(clock):
    counters = RunCounters(4)
    counters.start_shard(100, 0)
    counters.start_shard(300, 50)
    for _ in range(75):
        counters.count("ok", [completion(1)])
    clock[0] += 15
    # 4 shards of 200 rows, 50 done before, 75 now: 675 to go at 5 a second
    assert counters.snapshot().eta_s == pytest.approx(135)


def test_rows_in_all_are_an_estimate_until_every_shard_is_opened():
    counters = RunCounters(2, kept=1000)
    assert (counters.snapshot().total, counters.snapshot().share) == (None, None)
    counters.start_shard(100, 40)
    s = counters.snapshot()
    assert (s.kept, s.total, s.is_estimate) == (1040, 1200, True)
    counters.start_shard(300, 0)
    for _ in range(180):
        counters.count("ok", [completion(1)])
    s = counters.snapshot()
    assert (s.total, s.is_estimate, s.share) == (1400, False, (1040 + 180) / 1400)


def test_no_rows_are_expected_of_shards_that_cannot_be_opened():
    counters = RunCounters(4)
    counters.skip_shard()
    assert counters.snapshot().total == 0
    counters.start_shard(100, 0)
    assert (counters.snapshot().total, counters.snapshot().is_estimate) == (200, True)
    counters.skip_shard()
    counters.start_shard(80, 0)
    assert (counters.snapshot().total, counters.snapshot().is_estimate) == (180, False)


def test_rows_in_all_may_be_known_before_a_shard_is_opened(clock):
    counters = RunCounters(3, num_rows=2300, kept=500)
    s = counters.snapshot()
    assert (s.total, s.is_estimate, s.share) == (2800, False, 500 / 2800)
    counters.start_shard(1000, 800)
    counters.count("ok", [completion(1)])
    clock[0] += 2
    s = counters.snapshot()
    assert (s.kept, s.total, s.is_estimate, s.eta_s) == (1300, 2800, False, (2300 - 801) * 2)
    assert RunCounters(3, num_rows=2300, limit=10).snapshot().total == 10


def test_a_limit_is_all_there_is_to_do():
    counters = RunCounters(50, limit=10)
    counters.start_shard(100, 20)
    s = counters.snapshot()
    assert (s.kept, s.total, s.is_estimate) == (20, 30, False)
    assert RunCounters(1, limit=10).snapshot().total is None


def test_captions_that_the_token_limit_ended_are_counted():
    counters = RunCounters(1)
    for reason in ("stop", "length", "loop", "length"):
        counters.count("ok", [Completion(0, np.zeros(3, np.int32), reason, 3)])
    assert counters.snapshot().cut == 2


def test_a_shared_caption_is_a_caption_and_none_of_its_tokens_were_generated(clock):
    counters = RunCounters(1)
    counters.start_shard(10, 0)
    clock[0] += 2
    counters.count("ok", [Completion(0, np.zeros(3, np.int32), "length", 30)])
    counters.count("ok", [Completion(0, np.zeros(3, np.int32), "length", 30)], is_shared=True)
    counters.count("ok", [completion(50)])
    counters.count("truncated", ())
    s = counters.snapshot()
    assert (s.rows, s.captioned, s.shared, s.cut) == (4, 3, 1, 2)
    assert (s.num_tokens, s.tokens_per_caption, s.images_per_s) == (80, 40, 1.5)
