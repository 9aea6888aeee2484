"""Runs on a real Ray cluster of several nodes on this machine: nodes, workers, coordinator and driver die meanwhile."""

import os
import random
import signal
import sys
import time
from collections import Counter

import pytest
from support import runs, worker_hook
from support.cluster_runs import SHORT, ClusterRun, events
from support.clusters import Cluster
from support.runs import run_arguments

from recap_fast.records import Shard
from recap_fast.shards.reader import open_shard

NUM_SHARDS, NUM_SAMPLES = 24, 20  # two workers take eleven at most before the gate, so that some are left for others
ENDS = (0, 1, 75, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGABRT)
"""Of disturbed runs: 1 where a shard's worker was killed three times by chance; -SIGTERM where a second one came, and
-SIGABRT where the first came in the millisecond in which Ray's own handler is there."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return runs.write_pictures(tmp_path_factory.mktemp("in"), NUM_SHARDS, NUM_SAMPLES, bad=(3,))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, server, tiny_engine, inputs):
    """Rows of one process that nothing happens to."""
    output = tmp_path_factory.mktemp("out")
    command = server.run(*run_arguments(tiny_engine, inputs, output, *SHORT))
    assert command.code == 0, command.stderr
    return runs.read_rows(output)


@pytest.fixture(scope="module")
def cluster():
    """A cluster with a head that has no room for workers."""
    with Cluster() as started:
        yield started


@pytest.fixture
def run(tmp_path, server, cluster, tiny_engine, inputs):
    """On two nodes."""
    while len(cluster.nodes) < 2:
        cluster.add()
    yield ClusterRun(tmp_path, server, cluster, tiny_engine, inputs)
    cluster.wait_until_idle()
    cluster.remove_drained()


def image(inputs, shard, index):
    """The bytes of a sample."""
    with open_shard(Shard(shard, str(inputs / f"{shard}.tar"), "tar")) as reader:
        return next(sample.image for sample in reader.samples(()) if sample.index == index)


def test_a_node_is_to_go_another_one_dies_and_new_ones_come(run, cluster, undisturbed):
    command = run.start()
    run.wait_for_workers(2, command)
    cluster.drain(cluster.nodes[0])
    command.wait_for('"drain"')
    cluster.add()
    run.wait_for_workers(3, command)
    assert "a worker died" not in command.stderr
    cluster.remove(cluster.nodes[0])
    cluster.add()
    run.wait_for_workers(4, command)
    run.open_gate()
    run.check(command, undisturbed)


def test_a_worker_and_the_coordinator_are_killed_and_an_image_kills_its_decoder(run, cluster, inputs, undisturbed):
    command = run.start(KILLER=image(inputs, "00010", 5).hex())
    run.wait_for_workers(2, command)
    cluster.kill_coordinator()
    cluster.kill_worker()
    run.wait_for_workers(3, command)
    run.open_gate()
    run.check(command, undisturbed)
    assert command.stderr.count("a worker died") == 2


def test_the_driver_is_drained_then_killed_and_the_same_command_goes_on(run, cluster, undisturbed):
    command = run.start()
    run.wait_for_workers(2, command)
    command.send(signal.SIGTERM)
    command.wait_for("finishing the captions in flight")
    run.wait_for_drained(2, command)
    run.open_gate()
    assert command.wait() == 75, command.stderr
    assert list(run.output.glob("partial/**/*.parquet"))
    cluster.wait_until_idle()
    run.close_gate()
    command = run.start()
    run.wait_for_workers(2, command)
    command.send(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    cluster.wait_until_idle()  # the workers do not outlive it
    run.open_gate()
    command = run.start()
    run.check(command, undisturbed)
    assert events(command)["result"]["kept"] >= worker_hook.STRETCH_ROWS


@pytest.mark.slow
def test_a_shard_that_kills_three_workers_is_set_aside(run, undisturbed):
    run.open_gate()
    command = run.start("--max-workers", 2, DEADLY_SHARD="00004")
    assert command.wait() == 1, command.stderr
    record = runs.read_done(run.output, "00004")
    assert record["status"] == "failed"
    assert record["error"].startswith("3 worker processes died while they had this shard")
    assert runs.read_rows(run.output) == [row for row in undisturbed if row["shard"] != "00004"]


@pytest.mark.slow
def test_a_cluster_on_this_machine_for_one_run(tmp_path, server, tiny_engine, inputs, undisturbed):
    assert "RAY_AUTH_MODE" not in os.environ  # token authentication is as it is by default
    arguments = run_arguments(tiny_engine, inputs, tmp_path / "out", *SHORT, "--ray", "local", "--log-format", "json")
    command = server.run(*arguments)
    assert command.code == 0, command.stderr
    assert runs.read_rows(tmp_path / "out") == undisturbed
    names = {"shards", "decoder", "engine", "summary", "cut", "failures", "output", "held", "flags", "done", "result"}
    assert set(events(command)) - {"progress", "waiting"} == names  # a busy machine has lines of these two, too


@pytest.mark.chaos
@pytest.mark.parametrize("schedule", range(30))
def test_whatever_happens_no_row_is_lost_or_doubled(run, cluster, undisturbed, schedule):
    """Nodes, workers, coordinator and driver come and go; the command is repeated until it is done."""
    run.open_gate()
    happened, ends, end = Counter(), Counter(), None
    while end != 0:
        command = run.start("--retry-failed", "crashed", STEP_S=0.02)
        for _ in range(random.randint(2, 6)):
            happened[happen(cluster, command)] += 1
        if not cluster.nodes:
            cluster.add()
        end = command.wait()
        ends[end] += 1
        assert end in ENDS, command.stderr
        cluster.wait_until_idle()
    run.check(command, undisturbed)
    sys.stdout.write(
        f"schedule {schedule}: {dict(happened)}, ends {dict(ends)}, {len(undisturbed)} rows as they were\n"
    )


def happen(cluster, command):
    """Has something happen after a while; what it was."""
    time.sleep(random.uniform(0.2, 4.0))
    what = random.choice(
        ("worker", "worker", "coordinator", "node goes", "node comes", "node drains", "driver", "signal", "nothing")
    )
    if what == "node goes" and cluster.nodes:
        cluster.remove(random.choice(cluster.nodes))
    elif what == "node comes" and len(cluster.nodes) < 3:
        cluster.add()
    elif what == "node drains" and len(cluster.nodes) > 1:
        cluster.drain(random.choice(cluster.nodes))
    elif what in ("worker", "coordinator"):
        cluster.kill_if_any(what)
    elif what == "driver":
        command.send(signal.SIGKILL)
    elif what == "signal":
        command.send(signal.SIGTERM)
    return what
