"""Runs with identical images that end early, or of which a part breaks."""

import pytest
from support.engines import FakeEngine
from support.fake_runs import FakeRun, break_off, caption_of, captions, expected_copies, image, write_copies
from support.guard import GUARD_S, guarded, wait_until
from support.runs import read_rows

from recap_fast.write import shard_writer


def test_a_limit_counts_copies_and_the_next_run_goes_on(tmp_path):
    shards = [[1] * 10, [1, 2] * 5]
    write_copies(tmp_path / "in", *shards)
    run = FakeRun(tmp_path / "in", tmp_path / "out", limit=13, dedup=True)
    reports = guarded(run.run)
    assert sorted((r.shard, r.status) for r in reports) == [("00000", "complete"), ("00001", "interrupted")]
    assert run.counters.snapshot().rows == 13
    again = FakeRun(tmp_path / "in", tmp_path / "out", dedup=True)
    guarded(again.run)
    assert again.engine.submitted == 2, "the first that it meets of each kind"
    assert captions(tmp_path / "out") == expected_copies(*shards)


@pytest.mark.parametrize("seconds", [0.0, GUARD_S], ids=["at once", "after what is in flight"])
def test_draining_leaves_rows_that_wait_to_the_next_run(tmp_path, seconds):
    shards = [[1] * 50, [2] * 50]
    write_copies(tmp_path / "in", *shards)
    engine = FakeEngine(num_slots=1, length=lambda _: 3)
    run = FakeRun(tmp_path / "in", tmp_path / "out", engine, window=500, dedup=True)
    pipeline, step = run.pipeline(), engine.step

    def drain_and_step(**told):
        wait_until(lambda: pipeline.reading.num_read == 100 and not len(pipeline.reading.channels.samples))
        pipeline.drain(seconds)
        return step(**told)

    engine.step = drain_and_step
    guarded(lambda: pipeline.run(run.pending))
    assert engine.submitted == 1
    assert engine.completed == (seconds > 0)
    assert run.counters.snapshot().rows == 50 * engine.completed
    again = FakeRun(tmp_path / "in", tmp_path / "out", dedup=True)
    guarded(again.run)
    assert captions(tmp_path / "out") == expected_copies(*shards)
    assert again.engine.submitted == 2 - engine.completed


def test_the_shard_of_the_first_may_fail_while_others_wait(tmp_path, monkeypatch):
    shards = [[3, 4, 5, 1], [1] * 20, [2, 1] * 10]
    write_copies(tmp_path / "in", *shards)
    engine = FakeEngine(num_slots=4, length=lambda number: float("inf") if number == 3 else 1)
    run = FakeRun(tmp_path / "in", tmp_path / "out", engine, window=500, dedup=True)
    works, step = shard_writer.ShardWriter.flush, engine.step

    def step_and_release(**told):
        if (record := run.ledger.record("00000")) is not None:
            assert record.status == "failed"
            engine.release()
        return step(**told)

    engine.step = step_and_release
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "STRETCH_ROWS", 2)
        breaks = lambda self, *given: break_off() if self._shard.name == "00000" else works(self, *given)  # noqa: E731 - a method is replaced
        patch.setattr(shard_writer.ShardWriter, "flush", breaks)
        pipeline = run.pipeline()
        reports = {report.shard: report.status for report in guarded(lambda: pipeline.run(run.pending))}
    assert reports == {"00000": "failed", "00001": "complete", "00002": "complete"}
    assert pipeline.reading.channels.window.content == (0, 0)
    assert {
        row["duplicate_of"] for row in read_rows(tmp_path / "out") if row["re_caption"] == caption_of(image(1))
    } == {"00000:3"}
    guarded(FakeRun(tmp_path / "in", tmp_path / "out", dedup=True).run)
    assert captions(tmp_path / "out") == expected_copies(*shards)


@pytest.mark.parametrize("part", ["decoder", "prompts", "engine"])
def test_whichever_part_breaks_the_run_ends_with_its_error(tmp_path, monkeypatch, part):
    write_copies(tmp_path / "in", *[[1, 2, 3, 4, 5, 6] * 20] * 3)
    run = FakeRun(tmp_path / "in", tmp_path / "out", window=16, dedup=True)
    monkeypatch.setattr("recap_fast.pipeline.decoding.FIRST_BATCH", 4)
    count = iter(range(10**6))
    things = {"decoder": run.captioner.decoder, "prompts": run.captioner, "engine": run.engine}
    name = {"decoder": "decode", "prompts": "requests", "engine": "submit"}[part]
    works = getattr(things[part], name)
    fail_later = lambda *a, **k: break_off() if next(count) >= 1 else works(*a, **k)  # noqa: E731 - a method is replaced
    monkeypatch.setattr(things[part], name, fail_later)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        guarded(run.run)
