"""Real runs in real processes, killed, drained, cut short and divided: in the end the rows are those of one run."""

import signal
from collections import Counter

import pytest
from support import runs
from support.runs import run_arguments

NUM_SHARDS, NUM_SAMPLES = 4, 40
NUM_MOMENTS = 200  # an undisturbed run has some 280
BAD = (3, 17)
SHORT = ("--max-new-tokens", 8)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return runs.write_pictures(tmp_path_factory.mktemp("in"), NUM_SHARDS, NUM_SAMPLES, bad=BAD)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, server, tiny_engine, inputs):
    """Rows of a run that nothing happens to."""
    output = tmp_path_factory.mktemp("out")
    command = server.run(*run_arguments(tiny_engine, inputs, output, *SHORT))
    assert command.code == 0, command.stderr
    rows = runs.read_rows(output)
    assert len(rows) == NUM_SHARDS * NUM_SAMPLES
    assert len({row["re_caption"] for row in rows}) > 0.5 * len(rows), "captions that are all alike prove little"
    return rows


def assert_whole(server, output, rows):
    """The rows are these, each shard is one file, nothing is left over, and `verify` agrees."""
    assert runs.read_rows(output) == rows
    assert not list(output.glob("partial/**/*.parquet"))
    command = server.run("verify", output)
    assert command.code == 0, command.stdout


@pytest.mark.parametrize("num_kills", [8, pytest.param(50, marks=pytest.mark.fuzz)])
def test_kill_9_at_many_random_moments_changes_nothing(tmp_path, server, tiny_engine, inputs, undisturbed, num_kills):
    """A moment is a row that is taken, or a change of the file system that is about to happen."""
    kills = completed = 0
    while kills < num_kills:
        output = tmp_path / f"out{completed}"
        command = run_arguments(tiny_engine, inputs, output, *SHORT)
        commands = server.run_killed(*command, moments=NUM_MOMENTS, most_kills=num_kills - kills)
        kills_here = len(commands) - 2
        kills += kills_here
        completed += 1
        done_by_folder = Counter(row for each in commands for row in each.finished)
        assert_whole(server, output, undisturbed)
        assert len(done_by_folder) == len(undisturbed)
        # a kill costs what was not yet in a stretch: less than one of each shard in flight
        again = done_by_folder.total() - len(undisturbed)
        assert again <= kills_here * NUM_SHARDS * runs.STRETCH_ROWS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_drains_and_the_next_run_goes_on(tmp_path, server, tiny_engine, inputs, undisturbed, number):
    output = tmp_path / "out"
    command = server.run(*run_arguments(tiny_engine, inputs, output, *SHORT), send=(number, "step", 40))
    assert command.code == 75, command.stderr
    assert f"{signal.Signals(number).name}: finishing the captions in flight" in command.stderr
    assert command.stderr.endswith("Stopped by a signal; the same command goes on from here.\n")
    first = command.finished
    assert 0 < len(first) < len(undisturbed)
    command = server.run(*run_arguments(tiny_engine, inputs, output, *SHORT))
    assert command.code == 0
    assert not set(first) & set(command.finished), "nothing that was finished is lost by draining"
    assert_whole(server, output, undisturbed)


def test_a_second_signal_stops_at_once(tmp_path, server, tiny_engine, inputs, undisturbed):
    output = tmp_path / "out"
    arguments = run_arguments(tiny_engine, inputs, output, *SHORT)
    command = server.start(*arguments, step_s=10**6, send=(signal.SIGTERM, "step", 1))
    command.wait_for("a second signal stops at once")
    command.send(signal.SIGINT)
    assert command.wait() == -signal.SIGINT, "it waits for the step"
    assert server.run(*run_arguments(tiny_engine, inputs, output, *SHORT)).code == 0
    assert_whole(server, output, undisturbed)


def test_draining_takes_no_longer_than_drain_seconds(tmp_path, server, tiny_engine, inputs):
    arguments = run_arguments(tiny_engine, inputs, tmp_path / "out", "--drain-seconds", 0.1)
    command = server.run(*arguments, step_s=0.2, send=(signal.SIGTERM, "step", 3))
    assert command.code == 75
    assert command.num_steps == 3, "captions in flight are of 24 tokens"


def test_a_run_with_limits_comes_to_the_same_end(tmp_path, server, tiny_engine, inputs, undisturbed):
    output = tmp_path / "out"
    finished = []
    while True:
        command = server.run(*run_arguments(tiny_engine, inputs, output, *SHORT, "--limit", 55))
        assert command.code == 0, command.stderr
        if "Nothing to do" in command.stderr:
            break
        assert len(command.finished) <= 55
        finished += command.finished
    assert len(finished) == len(set(finished)) == len(undisturbed)
    assert_whole(server, output, undisturbed)


def test_processes_share_a_run_by_their_index(tmp_path, server, tiny_engine, inputs, undisturbed):
    output = tmp_path / "out"
    commands = [
        server.start(*run_arguments(tiny_engine, inputs, output, *SHORT, "--shard-index", i, "--num-shards", 3))
        for i in range(3)
    ]
    assert [command.wait() for command in commands] == [0, 0, 0]
    parts = [{row.split()[0] for row in command.finished} for command in commands]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert len(set.union(*parts)) == NUM_SHARDS
    assert_whole(server, output, undisturbed)


def start_two(server, arguments, gate, send=None):
    """Two runs, the second of which sends itself this signal, both with a first batch before either finishes a row."""
    commands = [server.start(*arguments, gate=gate), server.start(*arguments, gate=gate, send=send)]
    for command in commands:
        command.wait_for_step()
    gate.touch()
    return commands


def test_two_processes_over_the_same_shards_do_no_harm(tmp_path, server, tiny_engine, inputs, undisturbed):
    output = tmp_path / "out"
    commands = start_two(server, run_arguments(tiny_engine, inputs, output, *SHORT), tmp_path / "gate")
    assert [command.wait() for command in commands] == [0, 0], "".join(c.stderr for c in commands)
    assert all(len(command.finished) >= NUM_SAMPLES for command in commands), "they did not run at the same time"
    assert_whole(server, output, undisturbed)


def test_a_process_that_dies_beside_another_does_no_harm(tmp_path, server, tiny_engine, inputs, undisturbed):
    output = tmp_path / "out"
    arguments = run_arguments(tiny_engine, inputs, output, *SHORT)
    first, second = start_two(server, arguments, tmp_path / "gate", (signal.SIGKILL, "row", NUM_SAMPLES))
    assert first.wait() == 0, first.stderr
    assert second.wait() == -signal.SIGKILL
    server.run(*run_arguments(tiny_engine, inputs, output, *SHORT))
    # a stretch that the dead one wrote after the other's done-record may stay: a retry of failed rows looks the same
    assert runs.read_rows(output) == undisturbed
    command = server.run("verify", output)
    assert command.code == 0, command.stdout
