"""What `status` finds in an output: done-records, notes and the run file, whoever wrote them."""

import dataclasses
import json

import pytest
from support.ledgers import open_ledger, path_of
from support.runs import write_pictures
from support.workers import leave_note, make_work

from recap_fast.errors import ConfigError
from recap_fast.records import ShardReport
from recap_fast.write.done_record import write_record
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import Usage
from recap_fast.write.status import find_status
from recap_fast.write.usage import record_usage
from recap_fast.write.workers import SILENT_S

NAMES = [f"{number:05d}" for number in range(8)]


@pytest.fixture
def output(tmp_path):
    write_pictures(tmp_path / "in", len(NAMES), 1)
    return open_ledger(tmp_path / "out", tmp_path / "in/*.tar").output


def end(output, name, status="complete", rows=10, failed=None):
    failed = failed or {}
    captioned = rows - sum(failed.values())
    write_record(output, ShardReport(shard=name, status=status, rows=rows, captioned=captioned, failed=failed))


def test_before_anything_is_done_nobody_is_at_work(output):
    status = find_status(output)
    assert (status.state, status.num_shards, status.left, status.unclaimed) == ("idle", 8, 8, 8)
    assert (status.images_per_s, status.eta_s, status.usage) == (0.0, None, {})


def test_shards_and_rows_are_counted_by_what_became_of_them(output):
    for name in NAMES[:5]:
        end(output, name, failed={"truncated": 1, "corrupt": 2})
    end(output, NAMES[5], "truncated", rows=4)
    end(output, NAMES[6], "failed", rows=0)
    end(output, "not/of-this-run")
    status = find_status(output)
    assert status.ended == {"complete": 5, "truncated": 1, "failed": 1}
    assert (status.rows, status.captioned, status.failed) == (54, 39, {"truncated": 5, "corrupt": 10})
    assert (status.left, status.state) == (1, "idle")
    end(output, NAMES[7])
    assert find_status(output).state == "failed"
    for name in NAMES:
        end(output, name)
    assert find_status(output).state == "finished"


def test_a_record_that_is_damaged_is_left_to_do(output, caplog):
    end(output, NAMES[0])
    path_of(output, output.record(NAMES[0])).write_bytes(b"{")
    assert find_status(output).left == 8
    assert "its shard counts as not done" in caplog.text


def test_processes_that_live_are_told_from_those_that_went_silent(output):
    first = make_work(part="1/3", shards=(NAMES[0], NAMES[3]), num_open=2, shards_total=3, shards_done=1, captioned=900)
    first = dataclasses.replace(first, rows_left=200, images_per_s=6.0)
    second = make_work(part="2/3", shards=(NAMES[1],), num_open=3, shards_total=3, rows_left=100, images_per_s=4.0)
    third = make_work(part="3/3", shards=(NAMES[2],), num_open=1, captioned=90, device="cpu", is_gpu=False)
    leave_note(output, first, NAMES[::3])
    leave_note(output, second, NAMES[1::3], age_s=SILENT_S - 9)
    leave_note(output, third, NAMES[2::3], age_s=SILENT_S + 100)
    end(output, NAMES[6])
    end(output, NAMES[3], "truncated")
    record_usage(output, {"NVIDIA H100": Usage(2, 1000, 3600.0, is_gpu=True)})
    status = find_status(output)
    assert [each.work for each in status.at_work] == [first, second]
    assert [(each.work.part, each.silent_s > SILENT_S) for each in status.silent] == [("3/3", True)]
    assert (status.in_work, status.ended, status.left, status.unclaimed) == (5, {"complete": 1, "truncated": 0}, 2, 2)
    assert (status.images_per_s, status.eta_s, status.state) == (10.0, 30.0, "running")
    assert status.usage == {"NVIDIA H100": Usage(4, 1900, 7200.0, True), "cpu": Usage(1, 90, 1800.0, False)}
    told = json.loads(json.dumps(status.as_json()))
    ended = {"complete": 1, "truncated": 0, "failed": 0}
    assert told["shards"] == {"total": 8, **ended, "in_work": 5, "left": 2, "unclaimed": 2}
    assert [(each["host"], each["part"], each["started_s"]) for each in told["workers"]] == [
        ("box", "1/3", 1.5e9),
        ("box", "2/3", 1.5e9),
    ]
    assert told["silent"][0]["note_age_s"] > SILENT_S
    assert told["rates"] == [{"images_per_hour": 950.0, "unit": "GPU-hour"}, {"images_per_hour": 180.0, "unit": "hour"}]


def test_a_process_that_does_not_know_the_rest_leaves_that_to_others(output):
    leave_note(output, make_work(images_per_s=5.0), ["x"])
    assert find_status(output).eta_s is None
    leave_note(output, make_work(rows_left=50), NAMES)
    assert find_status(output).eta_s == 10.0


def test_only_some_records_are_in_memory_at_a_time(output, monkeypatch):
    monkeypatch.setattr("recap_fast.write.status.AT_ONCE", 3)
    for name in NAMES:
        end(output, name)
    told = []
    status = find_status(output, lambda done, total: told.append((done, total)))
    assert (status.rows, told) == (80, [(3, 8), (6, 8), (8, 8)])


def test_a_folder_of_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no run\.json: it is not the --output of a run"):
        find_status(OutputFolder.at(tmp_path))


@pytest.mark.parametrize(
    ("prompts", "num_captions", "expected"),
    [
        ([{"prompts": {"a": "?"}}, {"prompts": {"b": "?"}}], 3, (6, ("a", "b"), False)),
        (
            [{"set": "mix", "prompts": {"a": "?", "b": "?"}, "weights": {"a": 1, "b": 1}, "seed": 0}],
            1,
            (1, ("a", "b"), True),
        ),
    ],
)
def test_the_captions_of_an_image_are_those_of_the_run(tmp_path, prompts, num_captions, expected):
    write_pictures(tmp_path / "in", 1, 1)
    marks = {"prompts": prompts, "num_captions": num_captions}
    status = find_status(open_ledger(tmp_path / "out", tmp_path / "in/*.tar", marks=marks).output)
    assert (status.captions_per_image, status.prompts, status.is_drawn) == expected
