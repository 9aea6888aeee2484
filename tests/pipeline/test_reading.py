"""Shards that come one at a time and late, as from a coordinator."""

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


class Handed:
    """Hands out shards; before one of them it does something."""

    def __init__(self, shards, number=-1, before=lambda: None):
        self._left, self._number, self._before = list(shards), number, before
        self.asked_by = []
        """The threads that asked for each."""

    def __iter__(self):
        return self

    def __next__(self):
        self.asked_by.append(threading.current_thread())
        if len(self.asked_by) - 1 == self._number:
            self._before()
        if not self._left:
            raise StopIteration
        return self._left.pop(0)


def test_a_shard_is_asked_for_when_the_one_before_it_was_read(tmp_path):
    write_shards(tmp_path / "in", [20, 20, 20])
    engine = FakeEngine(num_slots=4, length=lambda _: float("inf"))
    run = FakeRun(tmp_path / "in", tmp_path / "out", engine, window=8)
    pipeline, shards = run.pipeline(), Handed(run.pending)

    def watch():
        wait_until(lambda: pipeline.reading.num_read == 8)  # all that the window lets in
        asked.append(len(shards.asked_by))
        engine.release()

    asked: list[int] = []
    threading.Thread(target=watch).start()
    guarded(lambda: pipeline.run(shards))
    assert asked == [1]
    assert len(shards.asked_by) == 4
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [20, 20, 20])


def test_captions_are_finished_while_the_next_shard_does_not_come(tmp_path):
    write_shards(tmp_path / "in", [5, 5])
    run = FakeRun(tmp_path / "in", tmp_path / "out")
    shards = Handed(run.pending, 1, lambda: wait_until(lambda: run.ledger.record("00000") is not None))
    assert [r.status for r in guarded(lambda: run.pipeline().run(shards))] == ["complete"] * 2


def test_waiting_for_a_shard_is_no_read_that_hangs(tmp_path, monkeypatch):
    write_shards(tmp_path / "in", [5, 5])
    run = FakeRun(tmp_path / "in", tmp_path / "out")
    paused, give_up = [], Watch.give_up_if_stalled

    def see(self):
        paused.append(self._paused)
        return give_up(self)

    def wait():
        monkeypatch.setattr(Watch, "give_up_if_stalled", see)
        wait_until(lambda: len(paused) > 3)
        assert all(paused)
        monkeypatch.undo()

    shards = Handed(run.pending, 1, wait)
    assert [r.status for r in guarded(lambda: run.pipeline().run(shards))] == ["complete"] * 2
    assert paused


def test_a_read_that_hangs_keeps_no_shard_back(tmp_path, monkeypatch, hang):
    write_shards(tmp_path / "in", [4, 4, 4])
    run = FakeRun(tmp_path / "in", tmp_path / "out")
    open_shard = run.open_shard
    run.open_shard = lambda shard, stop: hang.here() if shard.name == "00001" else open_shard(shard, stop)
    monkeypatch.setattr(
        Watch, "give_up_if_stalled", lambda self: setattr(self, "_given_up", hang.take()) or self._given_up
    )
    shards = Handed(run.pending)
    reports = {r.shard: r.status for r in guarded(lambda: run.pipeline().run(shards))}
    assert reports == {"00000": "complete", "00001": "failed", "00002": "complete"}
    assert len(set(shards.asked_by)) == 1


def test_a_limit_asks_for_no_shard_in_vain(tmp_path):
    write_shards(tmp_path / "in", [4, 4, 4])
    run = FakeRun(tmp_path / "in", tmp_path / "out", limit=8)
    shards = Handed(run.pending)
    guarded(lambda: run.pipeline().run(shards))
    assert len(shards.asked_by) == 2


def test_a_run_ends_while_no_shard_comes_and_one_that_comes_late_is_not_begun(tmp_path, hang):
    write_shards(tmp_path / "in", [4, 4])
    run = FakeRun(tmp_path / "in", tmp_path / "out")
    pipeline, opened, open_shard = run.pipeline(), [], run.open_shard
    pipeline.reading.open_shard = lambda shard, stop: opened.append(shard.name) or open_shard(shard, stop)

    def come_late():
        with pytest.raises(OSError, match="released"):
            hang.here()

    shards = Handed(run.pending, 1, come_late)

    def drain():
        wait_until(lambda: hang.count and run.ledger.record("00000") is not None)
        pipeline.drain(GUARD_S)

    threading.Thread(target=drain).start()
    (report,) = guarded(lambda: pipeline.run(shards))
    assert (report.shard, report.status) == ("00000", "complete")
    hang.release()
    shards.asked_by[1].join(GUARD_S)
    assert opened == ["00000"]
    assert not shards.asked_by[1].is_alive()


def test_an_error_of_whoever_hands_out_ends_the_run(tmp_path):
    write_shards(tmp_path / "in", [4, 4])
    run = FakeRun(tmp_path / "in", tmp_path / "out")

    def lose():
        raise ConnectionError("the coordinator is gone")

    with pytest.raises(ConnectionError, match="the coordinator is gone"):
        guarded(lambda: run.pipeline().run(Handed(run.pending, 1, lose)))
