"""Real runs in real processes, killed, drained, cut short and divided: in the end the rows are those of one run."""

import json
import random
import signal
import time
from collections import Counter

import pytest
from support import runs
from support.runs import run_arguments

NUM_SHARDS, NUM_SAMPLES = 4, 40
NUM_KILLS = 32
BAD = (3, 17)
SHORT = ("--max-new-tokens", 8)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return runs.write_pictures(tmp_path_factory.mktemp("in"), NUM_SHARDS, NUM_SAMPLES, bad=BAD)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, server, tiny_engine, inputs):
    """Rows and seconds of a run that nothing happens to."""
    output = tmp_path_factory.mktemp("out")
    started = time.monotonic()
    command = server.run(*run_arguments(tiny_engine, inputs, output, *SHORT))
    seconds = time.monotonic() - started
    assert command.code == 0, command.stderr
    rows = runs.read_rows(output)
    assert len(rows) == NUM_SHARDS * NUM_SAMPLES
    assert len({row["re_caption"] for row in rows}) > 0.5 * len(rows), "captions that are all alike prove little"
    return rows, seconds


def assert_whole(server, output, rows):
    """The rows are these, each shard is one file, nothing is left over, and `verify` agrees."""
    assert runs.read_rows(output) == rows
    assert not list(output.glob("partial/**/*.parquet"))
    command = server.run("verify", output)
    assert command.code == 0, command.stdout


def test_kill_9_at_many_random_moments_changes_nothing(tmp_path, server, tiny_engine, inputs, undisturbed):
    rows, seconds = undisturbed
    rng = random.Random(0)
    kills = completed = 0
    while kills < NUM_KILLS:
        output = tmp_path / f"out{completed}"
        done_by_folder: Counter[str] = Counter()
        kills_here = 0
        while True:
            command = server.start(*run_arguments(tiny_engine, inputs, output, *SHORT))
            if kills < NUM_KILLS and kills_here < NUM_KILLS // 2:  # more than one folder, however fast the machine is
                time.sleep(rng.uniform(0.0, 0.7 * seconds))
                command.send(signal.SIGKILL)
            code = command.wait()
            done_by_folder.update(command.finished)
            if code == 0:
                break
            assert code == -signal.SIGKILL, command.stderr
            kills, kills_here = kills + 1, kills_here + 1
        completed += 1
        assert_whole(server, output, rows)
        assert len(done_by_folder) == len(rows)
        # a kill costs what was not yet in a stretch: less than one of each shard in flight
        again = done_by_folder.total() - len(rows)
        assert again <= kills_here * NUM_SHARDS * runs.STRETCH_ROWS
    assert completed >= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_drains_and_the_next_run_goes_on(tmp_path, server, tiny_engine, inputs, undisturbed, number):
    rows, _ = undisturbed
    output = tmp_path / "out"
    command = server.start(*run_arguments(tiny_engine, inputs, output, *SHORT), step_s=0.01)
    command.wait_for_rows(30)
    command.send(number)
    assert command.wait() == 75, command.stderr
    assert f"{signal.Signals(number).name}: finishing the captions in flight" in command.stderr
    assert command.stderr.endswith("Stopped by a signal; the same command goes on from here.\n")
    first = command.finished
    assert 30 <= len(first) < len(rows)
    command = server.run(*run_arguments(tiny_engine, inputs, output, *SHORT))
    assert command.code == 0
    assert not set(first) & set(command.finished), "nothing that was finished is lost by draining"
    assert_whole(server, output, rows)


def test_a_second_signal_stops_at_once(tmp_path, server, tiny_engine, inputs, undisturbed):
    rows, _ = undisturbed
    output = tmp_path / "out"
    command = server.start(*run_arguments(tiny_engine, inputs, output, *SHORT), step_s=0.5)
    command.wait_for("engine ")
    time.sleep(0.3)
    command.send(signal.SIGTERM)
    command.wait_for("a second signal stops at once")
    started = time.monotonic()
    command.send(signal.SIGINT)
    assert command.wait() == -signal.SIGINT
    assert time.monotonic() - started < 1, "it finished what was in flight first"
    assert server.run(*run_arguments(tiny_engine, inputs, output, *SHORT)).code == 0
    assert_whole(server, output, rows)


def test_draining_takes_no_longer_than_drain_seconds(tmp_path, server, tiny_engine, inputs):
    command = server.start(*run_arguments(tiny_engine, inputs, tmp_path / "out", "--drain-seconds", 0.2), step_s=0.3)
    command.wait_for("engine ")
    time.sleep(0.7)
    started = time.monotonic()
    command.send(signal.SIGTERM)
    assert command.wait() == 75
    assert time.monotonic() - started < 2.5, "24 steps of 0.3 s were waited for"


def test_a_run_with_limits_comes_to_the_same_end(tmp_path, server, tiny_engine, inputs, undisturbed):
    rows, _ = undisturbed
    output = tmp_path / "out"
    finished = []
    while True:
        command = server.run(*run_arguments(tiny_engine, inputs, output, *SHORT, "--limit", 55))
        assert command.code == 0, command.stderr
        if "Nothing to do" in command.stderr:
            break
        assert len(command.finished) <= 55
        finished += command.finished
    assert len(finished) == len(set(finished)) == len(rows)
    assert_whole(server, output, rows)


def test_processes_share_a_run_by_their_index(tmp_path, server, tiny_engine, inputs, undisturbed):
    rows, _ = undisturbed
    output = tmp_path / "out"
    commands = [
        server.start(*run_arguments(tiny_engine, inputs, output, *SHORT, "--shard-index", i, "--num-shards", 3))
        for i in range(3)
    ]
    assert [command.wait() for command in commands] == [0, 0, 0]
    parts = [{row.split()[0] for row in command.finished} for command in commands]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert len(set.union(*parts)) == NUM_SHARDS
    assert_whole(server, output, rows)


def test_two_processes_over_the_same_shards_do_no_harm(tmp_path, server, tiny_engine, inputs, undisturbed):
    rows, _ = undisturbed
    output = tmp_path / "out"
    commands = [server.start(*run_arguments(tiny_engine, inputs, output, *SHORT)) for _ in range(2)]
    assert [command.wait() for command in commands] == [0, 0], "".join(c.stderr for c in commands)
    assert all(len(command.finished) > NUM_SAMPLES for command in commands), "they did not run at the same time"
    assert_whole(server, output, rows)


def test_a_process_that_dies_beside_another_does_no_harm(tmp_path, server, tiny_engine, inputs, undisturbed):
    rows, _ = undisturbed
    output = tmp_path / "out"
    first, second = (server.start(*run_arguments(tiny_engine, inputs, output, *SHORT)) for _ in range(2))
    second.wait_for_rows(40)
    second.send(signal.SIGKILL)
    assert first.wait() == 0, first.stderr
    second.wait()
    server.run(*run_arguments(tiny_engine, inputs, output, *SHORT))
    # a stretch that the dead one wrote after the other's done-record may stay: a retry of failed rows looks the same
    assert runs.read_rows(output) == rows
    command = server.run("verify", output)
    assert command.code == 0, command.stdout


def test_a_changed_input_is_named_and_redone_on_request(tmp_path, server, tiny_engine):
    inputs = runs.write_pictures(tmp_path / "in", 2, NUM_SAMPLES, bad=BAD)
    output = tmp_path / "out"
    assert server.run(*run_arguments(tiny_engine, inputs, output, *SHORT)).code == 0
    runs.write_pictures(inputs, 1, NUM_SAMPLES + 2, bad=BAD)
    command = server.run(*run_arguments(tiny_engine, inputs, output, *SHORT))
    assert command.code == 0
    assert "00000.tar has changed since it was captioned" in command.stderr
    assert command.finished == []
    command = server.run(*run_arguments(tiny_engine, inputs, output, *SHORT, "--redo-changed"))
    assert "shards   1 of 2 to do (1 changed)" in command.stderr
    assert len(command.finished) == NUM_SAMPLES + 2
    assert [row["index"] for row in runs.read_rows(output)] == [*range(NUM_SAMPLES + 2), *range(NUM_SAMPLES)]


def test_overwrite_begins_anew_and_another_fingerprint_is_refused_without_it(tmp_path, server, tiny_engine, inputs):
    output = tmp_path / "out"
    assert server.run(*run_arguments(tiny_engine, inputs, output, *SHORT)).code == 0
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    command = server.run(*run_arguments(tiny_engine, inputs, output, "--max-new-tokens", 4, "--prompt", "Colors?"))
    assert command.code == 2
    assert "  max_new_tokens: 8 there, 4 now\n" in command.stderr
    assert "  prompt: 'Describe the image.' there, 'Colors?' now\n" in command.stderr
    assert "decoder" not in command.stderr
    assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == before
    command = server.run(*run_arguments(tiny_engine, inputs, output, "--max-new-tokens", 4, "--overwrite"))
    assert command.code == 0
    rows = runs.read_rows(output)
    assert len(rows) == NUM_SHARDS * NUM_SAMPLES
    assert {row["num_tokens"] for row in rows} == {4, None}
    assert json.loads((output / "run.json").read_text())["fingerprint"]["max_new_tokens"] == 4
