"""The supervisor without Ray: workers whose acts are scripted, one at each of its looks."""

from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_cluster import FakeCluster
from support.launches import Recorder

from recap_fast.errors import ConfigError, EngineError
from recap_fast.generate.engine import Statistics
from recap_fast.launch.cluster import supervisor
from recap_fast.launch.cluster.coordinator import Coordinator
from recap_fast.launch.cluster.supervisor import Supervisor
from recap_fast.launch.cluster.task import Outcome
from recap_fast.launch.cluster.totals import Totals
from recap_fast.records import Shard

WORKS = "boot", "take", "finish", "take", "finish", "take", "finish", "end"


class Supervised:
    """A run of shards a, b, ... on a fake cluster."""

    def __init__(self, *scripts, shards="abc", room=1, **config):
        self.cluster: Any = FakeCluster(scripts, room)
        self.committed, self.recorder = [], Recorder()
        given = {"max_workers": None, "min_workers": 0, "limit": None, "drain_seconds": 5.0, **config}
        ledger = SimpleNamespace(commit=self.committed.append)
        task: Any = SimpleNamespace(config=SimpleNamespace(**given), ledger=ledger)
        self.supervisor = Supervisor(
            cluster=self.cluster,
            coordinator=self.cluster.coordinator,
            shards=[Shard(name, f"/in/{name}.tar", "tar") for name in shards],
            task=task,
            needs={"num_cpus": 1},
            totals=Totals(len(shards), num_rows=None, kept=0, limit=None),
            reporter=self.recorder,
            on_device=lambda device: None,
        )

    def run(self):
        self.supervisor.run()
        return {name: report.status for name, report in self.supervisor.reports.items()}


def complete(names):
    return dict.fromkeys(names, "complete")


@pytest.fixture(autouse=True)
def always_look(monkeypatch):
    monkeypatch.setattr(supervisor, "NODES_S", 0.0)


def test_workers_do_all_and_one_that_waits_for_a_place_is_withdrawn():
    run = Supervised(WORKS)
    assert run.run() == complete("abc")
    assert [worker.name for worker in run.cluster.workers] == run.cluster.ended[::-1]
    assert len(run.cluster.workers) == 2  # what fits, and one more
    assert run.supervisor.totals.snapshot().shards_done == 3


def test_as_many_are_asked_for_as_are_allowed_and_never_more_than_shards_are_left():
    run = Supervised(WORKS, shards="abcdefgh", max_workers=5)
    run.cluster.scripts = [(*WORKS, *WORKS)] * 9
    run.run()
    assert len(run.cluster.workers) == 5
    run = Supervised(WORKS, shards="a", min_workers=7)
    run.run()
    assert len(run.cluster.workers) == 1


def test_shards_of_a_process_that_died_go_to_another_one(caplog):
    run = Supervised(("boot", "take", "die"), ("sleep",) * 3 + WORKS)
    assert run.run() == complete("abc")
    assert "a worker died: killed; it had a" in caplog.text


def test_a_node_that_died_is_nobodys_fault(caplog):
    run = Supervised(*[("boot", "take", "node dies")] * 20, WORKS, shards="a")
    run.cluster.scripts[-1] = WORKS
    assert run.run() == complete("a")
    assert "a node is gone" in caplog.text
    assert run.committed == []


def test_one_that_was_out_of_reach_goes_on():
    run = Supervised(("boot", "take", "unreachable", "finish", *WORKS[1:]))
    assert run.run() == complete("abc")


def test_a_shard_that_kills_three_is_recorded_as_failed():
    kills = "boot", "take", "die"
    run = Supervised(kills, kills, kills, shards="a")
    assert run.run() == {"a": "failed"}
    (report,) = run.committed
    assert report.error == "3 worker processes died while they had this shard; the last one: killed"


@pytest.mark.parametrize(
    "script",
    [("die",), ("boot", "die"), ("boot", "take", Outcome(failure="out of memory"))],
    ids=["start", "boot", "run"],
)
def test_three_that_break_in_a_row_end_the_run(script):
    run = Supervised(*[script] * 3, shards="abcdefgh", max_workers=1)
    with pytest.raises(EngineError, match="3 workers in a row broke"):
        run.run()


def test_an_error_that_all_would_have_ends_the_run():
    run = Supervised(("boot", Outcome(error=ConfigError("another engine"))))
    with pytest.raises(ConfigError, match="another engine"):
        run.run()


def test_a_coordinator_that_was_started_again_is_taught():
    def dies(cluster, worker):
        cluster.coordinator = Coordinator()

    run = Supervised(("boot", "take", "finish", "take", dies, "sleep", "sleep", "finish", "take", "finish", "end"))
    assert run.run() == complete("abc")


def test_what_comes_back_after_all_have_ended_is_done_by_a_new_worker():
    run = Supervised(("boot", "take", "interrupt", "end"), WORKS, shards="a", max_workers=1)
    assert run.run() == complete("a")


def test_draining_ends_workers_and_what_is_left_stays():
    run = Supervised(("boot", "take", lambda *_: run.supervisor.drain(60.0), "sleep", "interrupt", "end"), shards="ab")
    assert run.run() == {"a": "interrupted"}
    assert run.supervisor.drained


def test_one_that_does_not_drain_in_time_is_ended():
    run = Supervised(("boot", "take", lambda *_: run.supervisor.drain(-supervisor.GRACE_S), "sleep", "sleep"))
    assert run.run() == {}
    assert len(run.cluster.ended) == len(run.cluster.workers)


def test_workers_of_a_node_that_is_to_go_are_drained():
    def goes(cluster, worker):
        cluster.draining = {worker.node: 60.0}

    def is_told(cluster, worker):
        assert cluster.coordinator.beat(worker.message()).drain_s <= 5.0

    run = Supervised(("boot", "take", goes, is_told, "interrupt", "end"), shards="a", max_workers=1)
    run.cluster.scripts.append(("sleep", lambda cluster, _: cluster.draining.clear(), *WORKS))
    assert run.run() == complete("a")
    assert "drain" in dict(run.recorder.said)


def test_a_limit_is_for_one_worker():
    run = Supervised((*WORKS, *WORKS), shards="abcdef", room=9, limit=100)
    run.supervisor.totals.snapshot = lambda: SimpleNamespace(rows=100 * len(run.cluster.ended), eta_s=None)
    run.run()
    assert len(run.cluster.workers) == 1


def test_without_room_for_a_worker_the_user_is_told(monkeypatch):
    monkeypatch.setattr(supervisor, "NO_ROOM_S", 0.0)
    run = Supervised(("sleep",) * 5 + WORKS, room=0)
    run.run()
    said = [text for name, text in run.recorder.said if name == "waiting"]
    assert said[0] == "waiting  the cluster has no room yet for a worker, which takes 1 CPU"
    assert len(said) < 5


def test_what_engines_did_is_added_up():
    ends = Outcome(statistics=Statistics(images=5))
    run = Supervised(("boot", "take", "finish", ends), ("boot", "take", "finish", ends), shards="ab", max_workers=1)
    run.run()
    assert run.supervisor.statistics.images == 10
