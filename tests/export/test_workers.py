import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import pytest

from recap_fast.errors import ConfigError, ShardError
from recap_fast.export.target import Target
from recap_fast.export.workers import Task, write_shard, write_side_by_side
from recap_fast.records import Shard


def write(what, shard, draft):
    """Writes a file with the number of the process; or fails, as the shard's name says."""
    match shard.name:
        case "refused":
            raise ShardError(f"is {what}")
        case "foreign":
            raise ConfigError("there is one already")
        case "stuck":
            draft.file("stuck.txt").write_text("half")
            threading.Event().wait()
        case "foreign once one is stuck":
            while not any(draft.target.folder.glob(".*.tmp")):
                time.sleep(0.01)
            raise ConfigError("there is one already")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    draft.file(f"{shard.name}.txt").write_text(str(os.getpid()))
    draft.counts["samples"] += len(what)


def tasks(*names):
    return [Task(Shard(name, f"/in/{name}.tar", "tar"), "1", 1) for name in names]


@pytest.fixture
def target(tmp_path):
    made = Target(tmp_path, "txt", {})
    made.open()
    return made


def test_each_shard_is_written_by_one_of_some_processes(target, tmp_path):
    names = [f"{number}" for number in range(8)]
    outcomes = list(write_side_by_side(partial(write, "xyz"), target, iter(tasks(*names, "refused")), 3))
    by_name = {outcome.task.shard.name: outcome for outcome in outcomes}
    assert sorted(by_name) == [*names, "refused"]
    assert by_name["refused"].problem == "is xyz"
    assert {outcome.is_elsewhere for outcome in outcomes} == {False, True}
    assert all(by_name[name].counts == {"samples": 3} for name in names)
    processes = {int(path.read_text()) for path in tmp_path.glob("*.txt")}
    assert os.getpid() in processes
    assert len(processes) in (2, 3)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("name", "error"), [("foreign", ConfigError), ("killed", BrokenProcessPool)])
def test_what_a_process_raises_ends_them_all(target, name, error):
    with pytest.raises(error):
        list(write_side_by_side(partial(write, "x"), target, tasks(name, "a", "b"), 2))
    assert multiprocessing.active_children() == []


def test_a_process_that_is_ended_leaves_no_file_behind(target, tmp_path):
    with pytest.raises(ConfigError, match="there is one already"):
        list(write_side_by_side(partial(write, "x"), target, tasks("stuck", "a", "foreign once one is stuck"), 2))
    assert [path.name for path in tmp_path.iterdir()] == [".recap-fast"]


def test_who_stops_asking_leaves_no_process_behind(target):
    outcomes = write_side_by_side(partial(write, "x"), target, tasks(*"abcdefgh"), 2)
    next(outcomes)
    outcomes.close()
    assert multiprocessing.active_children() == []


def test_here_it_is_the_same(target):
    (task,) = tasks("a")
    assert write_shard(partial(write, "x"), target, task).counts == {"samples": 1}
    assert target.done("a", "1")
