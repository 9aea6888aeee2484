import errno
import fcntl
import multiprocessing
import signal

import pytest
from support.guard import GUARD_S

from recap_fast.records import Shard
from recap_fast.write.at_work import at_work
from recap_fast.write.output_folder import OutputFolder

SHARDS = [Shard(name, f"/in/{name}.tar", "tar") for name in ("a", "b/猫")]


@pytest.fixture
def output(tmp_path):
    return OutputFolder.at(tmp_path)


def test_a_second_process_is_told_and_the_first_is_not(output, caplog):
    with at_work(output, SHARDS):
        assert not caplog.text
        with at_work(output, SHARDS):
            assert "another process is at work on the same shards" in caplog.text
    assert not output.decoding.exists()


def test_the_second_is_known_when_the_first_has_ended(output, caplog):
    first, second = at_work(output, SHARDS), at_work(output, SHARDS)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    caplog.clear()
    with at_work(output, SHARDS):
        assert "another process" in caplog.text
    second.__exit__(None, None, None)
    assert not output.decoding.exists()


def test_processes_with_other_shards_are_no_news(output, caplog):
    with at_work(output, SHARDS), at_work(output, SHARDS[:1]), at_work(output, SHARDS[1:]):
        assert not caplog.text
    assert not output.decoding.exists()


def work_for_ever(output, begun):
    with at_work(output, SHARDS):
        begun.set()
        signal.pause()


def test_a_killed_process_is_not_at_work(output, caplog):
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=work_for_ever, args=(output, begun))
    process.start()
    assert begun.wait(GUARD_S)
    with at_work(output, SHARDS):
        assert "another process" in caplog.text
    process.kill()
    process.join(GUARD_S)
    caplog.clear()
    with at_work(output, SHARDS):
        assert not caplog.text
    assert not output.decoding.exists()


def test_without_locks_nothing_is_said(output, caplog, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with at_work(output, SHARDS), at_work(output, SHARDS):
        assert not caplog.text


def test_where_no_file_can_be_made_nothing_is_said(output, caplog):
    output.decoding.write_bytes(b"")
    with at_work(output, SHARDS), at_work(output, SHARDS):
        assert not caplog.text
