"""Several captions an image, with fake stages: a row is finished with its last caption, whatever the slots."""

import numpy as np
import pytest
from support.engines import FakeEngine
from support.fake_runs import (
    FakeCaptioner,
    FakeRun,
    captions,
    expected_captions,
    expected_copies,
    write_copies,
    write_shards,
)
from support.guard import guarded, wait_until
from support.runs import read_rows

NAMES = ("a", "b", "c")
SIZES = [13, 0, 9]


class Watched(FakeEngine):
    """Remembers requests in their order, and may fail on some; ids of captions are made of the request's number."""

    def __init__(self, num_slots, fails=()):
        super().__init__(num_slots)
        self.asked, self.fails = [], fails

    def submit(self, requests):
        self.asked += requests
        super().submit(requests)

    def step(self, *, more=False):
        import dataclasses

        done = super().step(more=more)
        return [
            dataclasses.replace(each, finish_reason="error", error="out of pages") if each.id in self.fails else each
            for each in done
        ]


def run_of(folder, engine, **options):
    run = FakeRun(folder / "in", folder / "out", engine, **options)
    run.captioner = FakeCaptioner(run.engine, NAMES)
    return run


@pytest.mark.parametrize("num_slots", [1, 2, 3, 4, 7])
def test_every_row_has_all_captions_also_where_they_are_more_than_the_slots(tmp_path, num_slots):
    write_shards(tmp_path / "in", SIZES, bad=(4,))
    run = run_of(tmp_path, Watched(num_slots), window=8)
    pipeline = run.pipeline()
    ready = pipeline.generating.channels.ready
    take = ready.take

    def take_when_the_window_is_full(*given):
        """The first time: an engine that is faster than the decoder would never have more than one image."""
        wait_until(lambda: run.engine.occupied or len(ready) == 7)  # and the bad one
        return take(*given)

    ready.take = take_when_the_window_is_full
    reports = guarded(lambda: pipeline.run(run.pending))
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", SIZES, bad=(4,))
    for row in read_rows(tmp_path / "out"):
        if row["status"] == "ok":
            assert [(c["name"], c["prompt"]) for c in row["captions"]] == [(n, f"Is it {n}?") for n in NAMES]
            assert {c["text"] for c in row["captions"]} == {row["re_caption"]}
        else:
            assert row["captions"] is None
    num = sum(SIZES) - 2
    assert max(run.engine.occupied) == num_slots
    assert sum(report.num_tokens for report in reports) == 4 * 3 * num
    snapshot = run.counters.snapshot()
    assert (snapshot.captioned, snapshot.generated, snapshot.num_tokens) == (num, 3 * num, 12 * num)
    assert snapshot.tokens_per_caption == 4


def test_the_requests_of_an_image_follow_each_other_and_name_the_first(tmp_path):
    write_shards(tmp_path / "in", SIZES)
    run = run_of(tmp_path, Watched(4))
    guarded(run.run)
    groups = [run.engine.asked[i : i + 3] for i in range(0, len(run.engine.asked), 3)]
    assert len(groups) == sum(SIZES)
    for first, *others in groups:
        assert first.same_image_as is None
        assert [other.same_image_as for other in others] == [first.id] * 2
        assert all(np.shares_memory(other.pixels, first.pixels) for other in others)


def test_one_caption_that_fails_fails_the_row_and_a_retry_makes_all_of_them(tmp_path):
    write_shards(tmp_path / "in", [5])
    run = run_of(tmp_path, Watched(4, fails=(4,)))  # the second of the second image
    (report,) = guarded(run.run)
    assert report.failed == {"generation_error": 1}
    row = read_rows(tmp_path / "out")[1]
    assert (row["status"], row["error"], row["captions"]) == ("generation_error", "prompt b: out of pages", None)
    again = run_of(tmp_path, Watched(4), retry=("generation_error",))
    guarded(again.run)
    assert len(again.engine.asked) == 3
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [5])
    assert all(len(row["captions"]) == 3 for row in read_rows(tmp_path / "out"))


def test_copies_share_all_captions(tmp_path):
    copies = [1, 2, 1, -1, 1], [2, 3, 1]
    write_copies(tmp_path / "in", *copies)
    run = run_of(tmp_path, Watched(4), dedup=True)
    guarded(run.run)
    assert captions(tmp_path / "out") == expected_copies(*copies)
    rows = [row for row in read_rows(tmp_path / "out") if row["status"] == "ok"]
    assert len(run.engine.asked) == 9
    assert all(len(row["captions"]) == 3 for row in rows)
    snapshot = run.counters.snapshot()
    assert (snapshot.shared, snapshot.generated) == (4, 9)


@pytest.mark.parametrize("after", [1, 4, 8])
def test_a_drain_finishes_the_row_that_was_begun(tmp_path, after):
    write_shards(tmp_path / "in", [12])
    run = run_of(tmp_path, Watched(2))
    pipeline, step = run.pipeline(), run.engine.step

    def drain_then(**told):
        if len(run.engine.occupied) == after:
            pipeline.drain(1e6)
        return step(**told)

    run.engine.step = drain_then
    guarded(lambda: pipeline.run(run.pending))
    assert len(run.engine.asked) % 3 == 0, "a row was begun and left"
    assert run.counters.snapshot().captioned == len(run.engine.asked) // 3 < 12
    guarded(run_of(tmp_path, Watched(2)).run)
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [12])
