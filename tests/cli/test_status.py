"""`recap-fast status`: what it shows to people and to programs, and the last line, which says what to do."""

import json
import re

import pytest
from click.testing import CliRunner
from support import runs
from support.workers import leave_note, make_work

from recap_fast.cli.main import cli
from recap_fast.cli.status import MAX_WORKERS
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.workers import SILENT_S


@pytest.fixture
def output(tmp_path):
    return OutputFolder.at(tmp_path / "out")


def shown(output, *options) -> list[str]:
    done = CliRunner().invoke(cli, ["status", output.address, *options])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_a_run_that_is_finished(start, output):
    start()
    lines = shown(output)
    assert lines[:4] == [
        "shards     2: 2 done",
        "rows       12 in shards that ended",
        "captioned  12",
        "failed     0",
    ]
    assert lines[4].startswith("held       ")
    assert lines[4].endswith(" images per hour")
    assert lines[5:] == [f"Finished: all 2 shards are done. Prove it with: recap-fast verify {output.address}"]


def test_a_run_that_stopped_and_one_that_could_not_read_a_shard(start, output, small_inputs):
    start(limit=6)
    assert shown(output)[-1] == "Nobody is at work, and 1 shard is not done: run the same command to go on."
    runs.write_pictures(small_inputs, 2, 6, bad=[0])
    (small_inputs / "00001.tar").write_bytes(b"x" * 2000)
    start(max_error_rate=1.0)
    lines = shown(output)
    assert lines[0] == "shards     2: 1 done, 1 failed"
    why = f"Why, says: recap-fast failures {output.address}"
    assert lines[-1] == f"1 shard could not be read whole: run the same command again. {why}"


def test_a_run_of_one_shard(start, output, small_inputs):
    (small_inputs / "00001.tar").unlink()
    start()
    assert shown(output)[-1] == f"Finished: its 1 shard is done. Prove it with: recap-fast verify {output.address}"


def test_a_run_of_several_captions_an_image(start, output):
    start(prompt=("a=What?", "b=Who?"))
    lines = shown(output)
    assert lines[2:4] == ["captioned  12", "captions   2 an image, of a, b"]
    found = json.loads("".join(shown(output, "--json")))
    assert (found["captioned"], found["captions_per_image"], found["prompts"]) == (12, 2, ["a", "b"])
    verified = CliRunner().invoke(cli, ["verify", output.address])
    assert verified.stdout.splitlines()[-1] == (
        "Proven: every image has exactly one row, every captioned one its 2 captions, every file is as it was written."
    )
    found = json.loads(CliRunner().invoke(cli, ["verify", output.address, "--json"]).stdout)
    assert (found["proven"], found["captions_per_image"]) == (True, 2)


def test_a_run_whose_prompts_are_drawn(start, output, tmp_path):
    start(prompt=("a=What?", "b=Who?"))
    run_file = tmp_path / "out/run.json"
    run = json.loads(run_file.read_text())
    run["fingerprint"]["prompts"] = [{"set": "mix", "prompts": {"a": "What?", "b": "Who?"}}]
    run_file.write_text(json.dumps(run))
    assert shown(output)[3] == "captions   1 an image, of a, b (an image gets some of them, drawn)"


def test_what_devices_were_held(start, output):
    start()
    leave_note(output, make_work(device="NVIDIA H100", is_gpu=True, captioned=100, held_s=360.0), ["00001"])
    assert not any(line.startswith("rate ") for line in shown(output)), "there is none before the first captions"
    held = next(line for line in shown(output) if line.startswith("held "))
    assert ", NVIDIA H100 for 6 min" in held
    assert re.fullmatch(r"1,000 images per GPU-hour, [\d,]+ images per hour", held.rpartition(": ")[2])


def test_a_run_at_work(start, output):
    start(limit=1)
    work = make_work(part="1/2", shards=("00000",), num_open=1, shards_total=1, rows=7, rows_left=40, images_per_s=0.4)
    leave_note(output, work, ["00000"])
    leave_note(output, make_work(part="2/2", device=""), ["00001"], age_s=SILENT_S + 540)
    lines = shown(output)
    assert lines[0] == "shards     2: 0 done, 1 in work, 1 left"
    assert lines[4] == "rate       0.4 images/s over the last minutes, ETA 2 min"
    done = "running for 30 min, 7 rows, 0.4 images/s, shards 00000"
    assert lines[6] == f"worker     box process 12, part 1/2, NVIDIA H100: {done}"
    assert lines[7] == "silent     box process 12, part 2/2: last heard of 10 min ago"
    assert lines[8] == "Running: 1 process is at work. Nobody has the other 1 shard: start the parts that are missing."
    found = json.loads("\n".join(shown(output, "--json")))
    assert (found["state"], found["workers"][0]["host"], found["silent"][0]["part"]) == ("running", "box", "2/2")


def test_of_many_processes_some_are_shown(start, output):
    start(limit=1)
    for number in range(MAX_WORKERS + 3):
        leave_note(output, make_work(pid=number, shards_total=2), [str(number)])
    lines = shown(output)
    assert sum(line.startswith("worker ") for line in lines) == MAX_WORKERS
    assert lines[-2:] == ["           and 3 more: --json has all", f"Running: {MAX_WORKERS + 3} processes are at work."]


def test_no_output_is_a_usage_error(tmp_path):
    done = CliRunner().invoke(cli, ["status", str(tmp_path)])
    assert "it is not the --output of a run" in str(done.exception)
