"""What processes of torchrun end with; and real ones, two at a time, on a CPU."""

import itertools
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import runs
from support.guard import GUARD_S
from support.launches import Recorder
from torch.distributed import TCPStore

import recap_fast
from recap_fast.errors import ExitCode
from recap_fast.launch.torchrun import exit_code

COMPLETE, FAILURE, ERROR_RATE = ExitCode.COMPLETE, ExitCode.FAILURE, ExitCode.ERROR_RATE


@pytest.fixture(scope="module")
def environ():
    """Of one of three processes of a torchrun. Its store is for all tests: each has an output of its own."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    names = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    yield {**names, "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    del store


@pytest.mark.parametrize("outcomes", [*itertools.permutations((FAILURE, ERROR_RATE, COMPLETE))])
def test_the_last_process_has_the_worst_outcome_of_all(outcomes, environ, tmp_path):
    assert [exit_code(each, tmp_path, Recorder(), environ) for each in outcomes] == [0, 0, 1]


def test_a_process_whose_code_is_not_its_outcome_says_so(environ, tmp_path):
    recorder = Recorder()
    for outcome in (ERROR_RATE, COMPLETE, COMPLETE):
        exit_code(outcome, tmp_path, recorder, environ)
    assert [text for _, text in recorder.said] == [
        "Other processes of torchrun are at work: this one ends with code 0, the last one with 3.",
        "Other processes of torchrun had failures: this one ends last, and with code 3.",
    ]


def test_outputs_and_restarts_are_counted_apart(environ, tmp_path):
    again = {**environ, "TORCHELASTIC_RESTART_COUNT": "1"}
    given = [(tmp_path, environ), (tmp_path / "other", environ), (tmp_path, again), (tmp_path, environ)]
    assert [exit_code(FAILURE, *each, Recorder(), at) for *each, at in given] == [0, 0, 0, 0]
    assert exit_code(COMPLETE, tmp_path, Recorder(), environ) == FAILURE


@pytest.mark.parametrize(
    "changed",
    [{"TORCHELASTIC_USE_AGENT_STORE": "False"}, {"WORLD_SIZE": "1"}, {"MASTER_PORT": ""}],
)
def test_a_process_alone_or_without_a_store_keeps_its_code(changed, environ, tmp_path):
    assert exit_code(FAILURE, tmp_path, Recorder(), {**environ, **changed}) == FAILURE


def test_a_store_that_does_not_answer_is_a_warning(environ, tmp_path, capfd):
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        recorder, port = Recorder(), str(unused.getsockname()[1])
        assert exit_code(ERROR_RATE, tmp_path, recorder, {**environ, "MASTER_PORT": port}) == ERROR_RATE
    assert capfd.readouterr().err == "", "torch shows some 40 lines of C++"
    assert recorder.said[0][1].startswith("torchrun's store does not answer, so this process ends with its own code: ")


def test_a_run_that_a_signal_stopped_keeps_its_code(environ, tmp_path):
    assert exit_code(ExitCode.DRAINED, tmp_path, Recorder(), environ) == ExitCode.DRAINED


PROGRAM = """
import os, time
from pathlib import Path
from recap_fast.cli.main import main
from recap_fast.write.shard_writer import ShardWriter

rank, attempt, rows = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"], []
add, first = ShardWriter.add, Path("first-process")

def is_there(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True

def changed(self, row):
    rows.append(row)
    CHANGE
    return add(self, row)

ShardWriter.add = changed
if rank == "0":
    Path("first.new").write_text(str(os.getpid()))
    Path("first.new").rename(first)
main()
"""
KILL_THE_SECOND_ONCE = """
    if (rank, attempt, len(rows)) == ("1", "0", 3):
        os.kill(os.getpid(), 9)
"""
HOLD_THE_SECOND_WHILE_THE_FIRST_LIVES = """
    while rank == "1" and not (first.exists() and not is_there(int(first.read_text()))):
        time.sleep(0.01)
"""


def torchrun(change: str, folder: Path, arguments: list[object], *options: str) -> subprocess.CompletedProcess[str]:
    """Two processes of `recap-fast` with a change in what each does with a row."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    program = PROGRAM.replace("    CHANGE\n", change)
    command = [*launcher, "--no-python", sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=GUARD_S)


def test_a_process_that_is_killed_is_started_again_and_all_is_done(tiny_engine, small_inputs, tmp_path):
    output = tmp_path / "out"
    arguments = runs.run_arguments(tiny_engine, small_inputs, output, "--device", "auto")
    done = torchrun(KILL_THE_SECOND_ONCE, tmp_path, arguments, "--max-restarts", "1")
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr
    for part in (1, 2):
        assert f"part     {part} of 2 on cpu" in done.stderr
    recap_fast.run(tiny_engine, f"{small_inputs}/*.tar", tmp_path / "alone", decoder="pillow", device="cpu")
    assert runs.read_rows(output) == runs.read_rows(tmp_path / "alone")
    assert recap_fast.verify(output, shards=f"{small_inputs}/*.tar").faults == []


def test_a_broken_shard_stops_no_other_process(tiny_engine, small_inputs, tmp_path):
    tar = small_inputs / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    output = tmp_path / "out"
    arguments = runs.run_arguments(tiny_engine, small_inputs, output)
    done = torchrun(HOLD_THE_SECOND_WHILE_THE_FIRST_LIVES, tmp_path, arguments)
    assert [runs.read_done(output, name)["status"] for name in ("00000", "00001")] == ["truncated", "complete"]
    assert "are at work: this one ends with code 0, the last one with 1" in done.stderr
    assert "had failures: this one ends last, and with code 1" in done.stderr
    assert done.returncode == 1
