"""Reads and decoders that never return: the run goes on without them, and ends when it is told to."""

import os
import threading

import pytest
from support.engines import FakeEngine
from support.fake_runs import FakeRun, captions, expected_captions, write_shards
from support.guard import GUARD_S, guarded, wait_until
from support.hangs import Hang

from recap_fast.shards.patience import Watch


@pytest.fixture
def hang():
    found = Hang()
    yield found
    found.release()


@pytest.fixture
def deadline(hang, monkeypatch):
    """What hangs has brought nothing for too long."""
    monkeypatch.setattr(
        Watch, "give_up_if_stalled", lambda self: setattr(self, "_given_up", hang.take()) or self._given_up
    )


def hang_at(hang, monkeypatch, content):
    """The read of a tar's member that begins so hangs, as on a dead mount."""
    monkeypatch.setattr(os, "pread", hang.wrap(os.pread, lambda read: read.startswith(content)))


def test_a_read_that_hangs_costs_its_shard_and_the_next_run_goes_on(tmp_path, monkeypatch, hang, deadline, caplog):
    write_shards(tmp_path / "in", [10, 10, 10])
    with monkeypatch.context() as patch:
        hang_at(hang, patch, b"image 1004")  # the fifth of the second shard
        reports = {r.shard: r for r in guarded(FakeRun(tmp_path / "in", tmp_path / "out").run)}
    assert {shard: (r.status, r.rows) for shard, r in reports.items()} == {
        "00000": ("complete", 10),
        "00001": ("truncated", 4),
        "00002": ("complete", 10),
    }
    assert reports["00001"].error == "nothing came from it for 30 s (--read-timeout)"
    assert "shard 00001: nothing came from it for 30 s" in caplog.text
    hang.release()
    again = FakeRun(tmp_path / "in", tmp_path / "out")
    guarded(again.run)
    assert again.engine.submitted == 6
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [10, 10, 10])


def test_an_input_whose_opening_hangs_has_failed(tmp_path, hang, deadline):
    write_shards(tmp_path / "in", [4, 4])
    run = FakeRun(tmp_path / "in", tmp_path / "out")
    open_shard = run.open_shard
    run.open_shard = lambda shard, stop: hang.here() if shard.name == "00000" else open_shard(shard, stop)
    reports = {r.shard: (r.status, r.error) for r in guarded(run.run)}
    assert reports == {
        "00000": ("failed", "nothing came from it for 30 s (--read-timeout)"),
        "00001": ("complete", None),
    }


def test_what_was_given_up_changes_nothing_when_it_comes_after_all(tmp_path, monkeypatch, hang, deadline):
    write_shards(tmp_path / "in", [4, 4])
    run = FakeRun(tmp_path / "in", tmp_path / "out")
    pipeline, open_shard, late = run.pipeline(), run.open_shard, []

    def open_late(shard, stop):
        if shard.name != "00000":
            hang.release()
            late[0].join(GUARD_S)
            return open_shard(shard, stop)
        late.append(threading.current_thread())
        opened = open_shard(shard, stop)
        with pytest.raises(OSError, match="released"):
            hang.here()
        return opened

    pipeline.reading.open_shard = open_late
    reports = {r.shard: r.status for r in guarded(lambda: pipeline.run(run.pending))}
    assert reports == {"00000": "failed", "00001": "complete"}
    assert pipeline.reading.num_read == 4


@pytest.mark.parametrize("where", ["opening", "reading"])
def test_a_run_ends_while_a_read_hangs(tmp_path, monkeypatch, hang, where):
    write_shards(tmp_path / "in", [10, 10])
    run = FakeRun(tmp_path / "in", tmp_path / "out")
    open_shard = run.open_shard
    if where == "opening":
        run.open_shard = lambda shard, stop: hang.here() if shard.name == "00001" else open_shard(shard, stop)
    else:
        hang_at(hang, monkeypatch, b"image 1004")
    pipeline = run.pipeline()

    def drain():
        wait_until(lambda: hang.count and run.ledger.record("00000") is not None)
        pipeline.drain(GUARD_S)

    threading.Thread(target=drain).start()
    reports = {r.shard: r.status for r in guarded(lambda: pipeline.run(run.pending))}
    assert reports == {"00000": "complete"} | ({"00001": "interrupted"} if where == "reading" else {})
    assert hang.count == 1, "it still hangs"


def test_a_run_ends_in_time_while_the_decoder_hangs(tmp_path, hang, caplog):
    write_shards(tmp_path / "in", [200])
    run = FakeRun(tmp_path / "in", tmp_path / "out", FakeEngine(num_slots=4))
    pipeline = run.pipeline()
    decode = run.captioner.decoder.decode
    run.captioner.decoder.decode = lambda images: hang.here() if run.engine.completed >= 8 else decode(images)

    def drain():
        wait_until(lambda: hang.count)
        pipeline.drain(0.1)

    threading.Thread(target=drain).start()
    (report,) = guarded(lambda: pipeline.run(run.pending))
    assert report.status == "interrupted"
    assert "the thread recap-decode hangs, and the run ends without it" in caplog.text
    hang.release()
    again = FakeRun(tmp_path / "in", tmp_path / "out")
    guarded(again.run)
    assert again.engine.submitted == 200 - run.engine.completed, "what was finished is lost"
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [200])
