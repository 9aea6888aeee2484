import json

import pytest

from recap_fast.launch.progress_line import duration, failures, progress_fields, progress_line
from recap_fast.pipeline.counters import STAGES, Snapshot, Workers


def snapshot(**changed) -> Snapshot:
    given = {
        "seconds": 25.0,
        "rows": 1566,
        "captioned": 1532,
        "failed": {"not_an_image": 14, "truncated": 20},
        "num_tokens": 87324,
        "cut": 12,
        "kept": 434,
        "total": 20000,
        "is_estimate": True,
        "shards_done": 1,
        "shards_total": 3,
        "busy": {"read": 0.1, "decode": 0.2, "generate": 0.981, "write": 0.05},
        "eta_s": 130.0,
    }
    return Snapshot(**{**given, **changed})


WHOLE = (
    "2,000 of about 20,000 (10%)  61.3 images/s  ETA 2 min  shards 1/3  57 tokens a caption  "
    "slowest stage: generate (98% busy)  34 failed (20 truncated, 14 not_an_image)"
)


def test_the_progress_line():
    assert progress_line(snapshot()) == WHOLE
    assert progress_line(snapshot(is_estimate=False, failed={})) == WHOLE.replace("about ", "").partition("  34")[0]


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (200, WHOLE),
        (120, "2,000 of about 20,000 (10%)  61.3 images/s  ETA 2 min  shards 1/3  57 tokens a caption  34 failed"),
        (80, "2,000 of about 20,000 (10%)  61.3 images/s  ETA 2 min  shards 1/3  34 failed"),
        (66, "2,000 of about 20,000 (10%)  61.3 images/s  ETA 2 min  34 failed"),
        (40, "2,000 of about 20,000 (10%)  ETA 2 min"),
        (30, "2,000 (10%)  ETA 2 min"),
        (10, "2,000 (10%"),
    ],
)
def test_what_does_not_fit_is_left_out_from_the_end(width, line):
    assert progress_line(snapshot(), width) == line


@pytest.mark.parametrize("failed", [{}, {"truncated": 1}, {f"status_{i}": 1000 for i in range(12)}])
@pytest.mark.parametrize(("kept", "total", "eta_s"), [(0, 2000, 130.0), (99_999_999, 1_000_000_000, 86_399 * 99.0)])
def test_with_40_columns_the_time_to_go_is_there_and_nothing_is_longer(kept, total, eta_s, failed):
    for width in range(40, 220):
        line = progress_line(snapshot(kept=kept, total=total, eta_s=eta_s, failed=failed), width)
        assert len(line) <= width
        assert f"  ETA {duration(eta_s)}" in line
        assert " images/s  ETA " in line or width < 80
        assert bool(failed) == (" failed" in line) or width < 100


def test_the_progress_line_before_there_is_anything_to_say():
    empty = snapshot(
        rows=0, captioned=0, failed={}, num_tokens=0, eta_s=None, shards_done=0, kept=0, total=None, is_estimate=False
    )
    assert progress_line(empty) == progress_line(empty, 80) == "0 done  shards 0/3"


@pytest.mark.parametrize(
    ("workers", "text"),
    [
        (Workers(num=8, starting=0, waiting=0, images_per_s=61.6), "61.6 images/s (8 workers, 7.7 each)"),
        (Workers(num=1, starting=2, waiting=1, images_per_s=7.0), "7.0 images/s (1 worker, 2 starting, 1 waiting)"),
        (Workers(num=0, starting=0, waiting=3, images_per_s=0.0), "0.0 images/s (0 workers, 3 waiting)"),
    ],
)
def test_of_a_cluster_the_workers_are_named(workers, text):
    assert progress_line(snapshot(workers=workers)) == WHOLE.replace("61.3 images/s", text)
    assert progress_fields(snapshot(workers=workers))["workers"]["num"] == workers.num


def test_the_progress_for_machines_is_json_and_says_the_same():
    fields = json.loads(json.dumps(progress_fields(snapshot())))
    assert (fields["rows"], fields["captioned"], fields["failed"]["truncated"]) == (1566, 1532, 20)
    assert (fields["limiting_stage"], fields["eta_s"], fields["images_per_s"]) == ("generate", 130.0, 61.28)
    assert list(fields["busy"]) == list(STAGES)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.42, "0.4 s"),
        (0.95, "1 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (3569, "59 min"),
        (3600, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86400, "24 h 00 min"),
        (3 * 86400 + 4.2 * 3600, "3 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_failures_are_listed_most_frequent_first():
    assert failures({}) == ""
    assert failures({"a": 1, "b": 1200}) == ", 1,201 failed (1,200 b, 1 a)"
