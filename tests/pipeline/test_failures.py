"""What breaks in a run, and what becomes of the rest: shards, the engine, the disk, threads; and drains."""

import contextlib
import dataclasses
import errno
import os

import pytest
from support import runs
from support.engines import FakeEngine
from support.fake_runs import FakeRun, break_off, captions, expected_captions, write_shards
from support.guard import GUARD_S, guarded, wait_until

from recap_fast.errors import EngineError, StoppedError
from recap_fast.write import shard_writer


def test_a_shard_that_cannot_be_opened_is_recorded_and_the_run_goes_on(tmp_path):
    write_shards(tmp_path / "in", [4, 4, 4])
    (tmp_path / "in" / "00001.tar").write_bytes(b"not a tar" * 500)
    run = FakeRun(tmp_path / "in", tmp_path / "out")
    reports = {r.shard: r for r in run.run()}
    assert {name: r.status for name, r in reports.items()} == {
        "00000": "complete",
        "00001": "failed",
        "00002": "complete",
    }
    assert "00001.tar" in str(reports["00001"].error)
    assert (run.counters.snapshot().total, run.counters.snapshot().is_estimate) == (8, False)
    assert runs.read_done(tmp_path / "out", "00001")["status"] == "failed"
    assert [(p.shard.name, p.reason) for p in run.ledger.pending()] == [("00001", "failed")]


def test_a_shard_that_breaks_in_the_middle_keeps_what_it_gave(tmp_path, caplog):
    write_shards(tmp_path / "in", [6, 6])
    run = FakeRun(tmp_path / "in", tmp_path / "out")
    open_shard = run.open_shard

    class Breaking:
        def __init__(self, reader):
            self._reader, self.identity, self.num_samples, self.problem = reader, reader.identity, 6, None

        def samples(self, done):
            for sample in self._reader.samples(done):
                if sample.index == 4:
                    raise KeyError("a bug of ours")
                yield sample

    @contextlib.contextmanager
    def open_breaking(shard, should_stop):
        with open_shard(shard, should_stop) as reader:
            yield Breaking(reader) if shard.name == "00000" else reader

    run.open_shard = open_breaking
    reports = {r.shard: r for r in run.run()}
    assert (reports["00000"].status, reports["00000"].rows) == ("truncated", 4)
    assert reports["00000"].error == "KeyError: 'a bug of ours'"
    assert "a bug of ours" in caplog.text
    assert reports["00001"].status == "complete"


def test_the_whole_samples_of_a_truncated_tar_are_captioned_and_a_mended_one_is_done_anew(tmp_path):
    write_shards(tmp_path / "in", [8, 2])
    whole = (tmp_path / "in" / "00000.tar").read_bytes()
    (tmp_path / "in" / "00000.tar").write_bytes(whole[: len(whole) // 2])
    reports = {r.shard: r for r in FakeRun(tmp_path / "in", tmp_path / "out").run()}
    assert reports["00000"].status == "truncated"
    assert 0 < reports["00000"].captioned < 8
    assert reports["00000"].error

    engine = FakeEngine()
    again = FakeRun(tmp_path / "in", tmp_path / "out", engine)
    assert [s.name for s in again.pending] == ["00000"]
    (report,) = again.run()
    assert (report.status, report.rows) == ("truncated", reports["00000"].rows)
    assert engine.submitted == 0, "rows that are there were done again"

    (tmp_path / "in" / "00000.tar").write_bytes(whole)
    (report,) = FakeRun(tmp_path / "in", tmp_path / "out").run()
    assert (report.status, report.rows) == ("complete", 8)
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [8, 2])
    assert FakeRun(tmp_path / "in", tmp_path / "out").pending == []


def test_a_row_that_could_not_be_read_is_tried_again_until_it_can(tmp_path, monkeypatch):
    write_shards(tmp_path / "in", [5])
    real, failures = os.pread, []

    def failing(descriptor, size, offset):
        content = real(descriptor, size, offset)
        if content.startswith(b"image 3") and len(failures) < 2:
            failures.append(offset)
            raise OSError(errno.EIO, "Input/output error")
        return content

    monkeypatch.setattr(os, "pread", failing)
    for _ in range(2):
        (report,) = FakeRun(tmp_path / "in", tmp_path / "out").run()
        assert (report.status, report.rows, report.failed) == ("truncated", 5, {"unreadable": 1})
        assert captions(tmp_path / "out")[3] == ("00000", 3, None)
    last = FakeRun(tmp_path / "in", tmp_path / "out")
    (report,) = last.run()
    assert last.engine.submitted == 1
    assert (report.status, report.rows, report.captioned, report.error) == ("complete", 5, 5, None)
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [5])
    assert FakeRun(tmp_path / "in", tmp_path / "out").pending == []


def test_an_engine_error_stops_at_once_and_what_is_finished_stays(tmp_path):
    write_shards(tmp_path / "in", [10, 100])
    engine = FakeEngine(num_slots=4)
    step = engine.step

    def failing_step(**told):
        if engine.completed >= 40:
            raise EngineError("CUDA error: an illegal memory access")
        return step(**told)

    engine.step = failing_step
    run = FakeRun(tmp_path / "in", tmp_path / "out", engine)
    with pytest.raises(EngineError, match="illegal memory access"):
        guarded(run.run)
    assert runs.read_done(tmp_path / "out", "00000")["status"] == "complete"
    again = FakeRun(tmp_path / "in", tmp_path / "out")
    assert [s.name for s in again.pending] == ["00001"]
    again.run()
    assert again.engine.submitted == 110 - engine.completed, "captions that were finished are made again, or lost"
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [10, 100])


def test_a_full_disk_stops_the_run_with_the_systems_words(tmp_path, monkeypatch):
    write_shards(tmp_path / "in", [30, 30])
    run = FakeRun(tmp_path / "in", tmp_path / "out")

    def full(*_):
        raise OSError(28, "No space left on device", "00000.parquet")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '00000.parquet'"):
            guarded(run.run)
    assert not (tmp_path / "out" / "manifests").exists()
    FakeRun(tmp_path / "in", tmp_path / "out").run()
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [30, 30])


@pytest.mark.parametrize(
    "part",
    [
        "reading.run",
        "decoding.run",
        "decoding._decode",
        "generating.run",
        "generating._fill",
        "writing.run",
        "writing._write",
    ],
)
@pytest.mark.parametrize("window", [16, 2000], ids=["window full", "queues full"])
def test_whichever_thread_dies_the_others_end(tmp_path, monkeypatch, part, window):
    write_shards(tmp_path / "in", [300, 300])
    run = FakeRun(tmp_path / "in", tmp_path / "out", window=window)
    pipeline = run.pipeline()
    stage, method = part.split(".")
    monkeypatch.setattr(getattr(pipeline, stage), method, break_off)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        guarded(lambda: pipeline.run(run.pending))


@pytest.mark.parametrize("part", ["decoder", "prompts", "engine"])
@pytest.mark.parametrize("after", [0, 25])
def test_whichever_part_breaks_the_run_ends_with_its_error(tmp_path, monkeypatch, part, after):
    write_shards(tmp_path / "in", [20] * 10)
    run = FakeRun(tmp_path / "in", tmp_path / "out", window=16)
    monkeypatch.setattr("recap_fast.pipeline.decoding.DECODE_BATCH", 4)
    count = iter(range(10**6))

    def fail_later(method):
        return lambda *a, **k: break_off() if next(count) >= after else method(*a, **k)

    target = {
        "decoder": (run.captioner.decoder, "decode"),
        "prompts": (run.captioner, "requests"),
        "engine": (run.engine, "submit"),
    }
    thing, method = target[part]
    monkeypatch.setattr(thing, method, fail_later(getattr(thing, method)))
    with pytest.raises(RuntimeError, match="broken on purpose"):
        guarded(run.run)


@pytest.mark.parametrize("method", ["flush", "finish"])
def test_a_shard_that_cannot_be_written_fails_and_no_other(tmp_path, monkeypatch, caplog, method):
    sizes = [20] * 6
    write_shards(tmp_path / "in", sizes)
    run = FakeRun(tmp_path / "in", tmp_path / "out", window=16)
    works = getattr(shard_writer.ShardWriter, method)
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "STRETCH_ROWS", 5)
        breaks = lambda self, *given: break_off() if self._shard.name == "00003" else works(self, *given)  # noqa: E731
        patch.setattr(shard_writer.ShardWriter, method, breaks)
        pipeline = run.pipeline()
        reports = {report.shard: report for report in guarded(lambda: pipeline.run(run.pending))}
    assert pipeline.reading.channels.window.content == (0, 0)
    assert [name for name, report in reports.items() if report.status != "complete"] == ["00003"]
    assert (reports["00003"].status, reports["00003"].error) == ("failed", "RuntimeError: broken on purpose")
    assert "shard 00003 cannot be written" in caplog.text
    assert [(p.shard.name, p.reason) for p in run.ledger.pending()] == [("00003", "failed")]
    FakeRun(tmp_path / "in", tmp_path / "out").run()
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", sizes)


def test_an_image_that_declares_a_size_beyond_the_schema_costs_nothing_but_its_size(tmp_path):
    write_shards(tmp_path / "in", [6])
    run = FakeRun(tmp_path / "in", tmp_path / "out")
    decode = run.captioner.decoder.decode

    def decode_large(images):
        batch = decode(images)
        large = (dataclasses.replace(outcome, width=2**32 - 16, height=2**40) for outcome in batch.outcomes)
        return dataclasses.replace(batch, outcomes=tuple(large))

    run.captioner.decoder.decode = decode_large
    (report,) = run.run()
    assert (report.status, report.captioned) == ("complete", 6)
    rows = runs.read_rows(tmp_path / "out")
    assert [(row["width"], row["height"]) for row in rows] == [(None, None)] * 6
    assert rows[0]["warning"] == (
        "width is left out, as it does not fit into 32 bits: 4294967280; "
        "height is left out, as it does not fit into 32 bits: 1099511627776"
    )


def test_draining_finishes_what_is_in_flight_and_the_next_run_goes_on(tmp_path):
    write_shards(tmp_path / "in", [40] * 5)
    engine = FakeEngine(num_slots=4, length=lambda _: 3)
    run = FakeRun(tmp_path / "in", tmp_path / "out", engine)
    pipeline = run.pipeline()
    step = engine.step

    def step_and_drain(**told):
        if engine.submitted >= 90 and not pipeline.drained:
            pipeline.drain(GUARD_S)
        return step(**told)

    engine.step = step_and_drain
    reports = guarded(lambda: pipeline.run(run.pending))
    assert pipeline.drained
    assert engine.completed == engine.submitted < 200
    statuses = [r.status for r in reports]  # of which shards were begun, the reader decides
    assert statuses[:2] == ["complete"] * 2
    assert set(statuses[2:]) == {"interrupted"}
    again = FakeRun(tmp_path / "in", tmp_path / "out")
    again.run()
    assert again.engine.submitted == 200 - engine.completed
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [40] * 5)


def test_draining_ends_the_opening_of_a_shard_and_leaves_it_as_not_begun(tmp_path):
    write_shards(tmp_path / "in", [4, 4])
    run = FakeRun(tmp_path / "in", tmp_path / "out")
    open_shard = run.open_shard

    def open_second_slowly(shard, should_stop):
        if shard.name == "00000":
            return open_shard(shard, should_stop)
        wait_until(lambda: run.ledger.record("00000") is not None)
        assert not should_stop()
        pipeline.drain(GUARD_S)
        wait_until(should_stop)
        raise StoppedError("the run is stopping")

    run.open_shard = open_second_slowly
    pipeline = run.pipeline()
    reports = guarded(lambda: pipeline.run(run.pending))
    assert [(report.shard, report.status) for report in reports] == [("00000", "complete")]
    assert run.ledger.record("00001") is None
    assert [(pending.shard.name, pending.reason) for pending in run.ledger.pending()] == [("00001", "new")]
    FakeRun(tmp_path / "in", tmp_path / "out").run()
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [4, 4])
