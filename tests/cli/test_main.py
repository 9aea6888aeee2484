"""The command line as a user meets it: what it takes, what it says, and with which code it ends."""

import functools
import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from support import runs
from support.guard import wait_until
from support.terminal import Terminal

from inputs import checkpoints
from recap_fast.bench import tune as tuning
from recap_fast.cli.main import cli
from recap_fast.generate.spec import Sizes

PROMPTING = {
    *("--prompt", "--prompt-file", "--num-captions"),
    *("--max-field-tokens", "--max-new-tokens", "--temperature", "--top-k", "--top-p", "--seed"),
    *("--loop-stop", "--no-loop-stop"),
}
OPTIONS = {
    "build-engine": {
        *("recipe", "--checkpoint", "--output", "--tokenizer", "--precision", "--backend", "--calibration"),
        *("--tune", "--overwrite"),
    },
    "tune": {"--engine", "--device", "--verify", "--no-verify"},
    "plan": {
        *("--shards", "--input", "--image-column", "--images", "--image-key", "--read-timeout"),
        *("--images-per-second", "--bench", "--engine", "--workers", "--price-per-hour"),
        *("--output", "--output-folder", "--json"),
    },
    "run": {
        *("--verify", "--no-verify"),
        *("--engine", "--shards", "--input", "--output", "--output-folder", "--decoder", "--decode-threads"),
        *("--max-image-pixels", "--background", "--device", "--num-slots", "--prefill-images"),
        *PROMPTING,
        *("--image-column", "--caption-column", "--limit", "--dry-run"),
        *("--dedup", "--no-dedup"),
        *("--images", "--image-key", "--overwrite", "--retry-failed", "--redo-changed", "--prune", "--relocate"),
        *("--accept-changed", "--part", "--shard-index", "--num-shards"),
        *("--ray", "--min-workers", "--max-workers", "--ray-worker-cpus", "--runtime-env"),
        *("--drain-seconds", "--read-timeout", "--max-error-rate", "--metrics-port", "--log-format"),
    },
    "bench": {
        *("--verify", "--no-verify"),
        *("--engine", "--shards", "--input", "--limit", "--image-size", "--stage", "--repeat", "--json"),
        *("--decoder", "--decode-threads", "--device", "--num-slots", "--prefill-images"),
        *PROMPTING,
    },
    "status": {"output", "--json"},
    "verify": {"output", "--shards", "--input", "--relocate", "--read-timeout", "--json"},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return runs.write_pictures(tmp_path_factory.mktemp("in"), 2, 5, bad=[1])


def arguments(engine, inputs, output, *more):
    return runs.run_arguments(engine, inputs, output, "--max-new-tokens", 4, "--max-error-rate", 1, *more)


# -- what it takes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_no_option_comes_or_goes_unnoticed(name):
    command = cli.commands[name]
    assert {name for p in command.params for name in (*p.opts, *p.secondary_opts)} == OPTIONS[name]


def test_the_help_shows_the_three_steps_and_every_command():
    done = subprocess.run([sys.executable, "-m", "recap_fast", "--help"], capture_output=True, text=True, check=True)
    assert "1. recap-fast build-engine RECIPE --checkpoint DIR --output ENGINE\n" in done.stdout
    for name in OPTIONS:
        assert f"\n  {name} " in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version(option):
    assert CliRunner().invoke(cli, [option]).stdout.startswith("recap-fast, version 0.")


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--engine", "/nowhere"], "/nowhere is not an engine directory: it has no engine.json"),
        (["--decoder", "opencv"], "'opencv' is not one of 'auto', 'dali', 'pillow'"),
        (["--shards", "/nowhere/*.tar"], "recap-fast: --shards /nowhere/*.tar: nothing matches it"),
        (["--output", "/dev/null/out"], "recap-fast: --output /dev/null/out cannot be made"),
        (["--num-slots", "0"], "--num-slots 0: give a count of at least 1."),
        (["--temperature", "-1"], "--temperature -1.0: give 0 (greedy) or a number up to 10."),
        (["--device", "tpu"], "--device tpu"),
        (["--prompt", "a", "--prompt-file", "b"], "--prompt and --prompt-file: give one of them."),
        (["--prompt-file", "/nowhere"], "--prompt-file /nowhere cannot be read"),
        (["--prompt-file", "/dev/null"], "--prompt-file /dev/null is empty: write a question into it."),
        (["--prompt", "1=Why?"], "'1' cannot be the name of a prompt"),
        (["--prompt", "a=b?", "--prompt", "a=c?"], "There are two prompts called 'a'"),
        (["--num-captions", "2"], "--num-captions 2 needs --temperature above 0"),
        (["--top-k", "2"], "--top-k and --top-p need --temperature above 0"),
        (["--shard-index", "1"], "--shard-index and --num-shards go together"),
        (["--limit", "many"], "'many' is not a valid integer"),
        (["--colour", "red"], "No such option"),
        (["--max-new-tokens", "100000"], "--max-new-tokens 100000 does not fit"),
    ],
)
def test_a_usage_error_is_a_sentence_and_2(server, tiny_engine, inputs, tmp_path, changed, message):
    command = server.run(*arguments(tiny_engine, inputs, tmp_path / "out", *changed))
    assert command.code == 2
    assert message in command.stderr
    assert "Traceback" not in command.stderr


def test_an_output_that_cannot_be_written_is_a_sentence_and_1(server, tiny_engine, inputs, tmp_path):
    out = tmp_path / "out"
    assert server.run(*arguments(tiny_engine, inputs, out, "--limit", 1)).code == 0
    (out / "data").write_text("in the way")
    command = server.run(*arguments(tiny_engine, inputs, out))
    assert command.code == 1
    assert command.stderr.splitlines()[-1].startswith(f"recap-fast: --output {out} cannot be written ([Errno ")
    assert f"{out}/data" in command.stderr
    assert "Traceback" not in command.stderr


@pytest.mark.parametrize("path", ["nowhere/x.json", "folder"])
def test_bench_refuses_a_file_that_it_cannot_write_before_it_measures(server, tmp_path, path):
    (tmp_path / "folder").mkdir()
    command = server.run("bench", "--engine", "/nowhere", "--json", tmp_path / path)
    assert command.code == 2
    assert str(tmp_path / path) in command.stderr
    assert "--json" in command.stderr


def test_build_engine_names_an_output_that_cannot_be_written(server, tmp_path):
    checkpoints.make_checkpoint(tmp_path / "checkpoint")
    command = server.run("build-engine", "llava", "--checkpoint", tmp_path / "checkpoint", "--output", "/proc/x")
    assert command.code == 1
    assert command.stderr.startswith("recap-fast: --output /proc/x cannot be written ([Errno ")
    assert command.stderr.endswith("): mend that, or give another path.\n")


def test_build_engine_reports_and_refuses(server, tmp_path):
    checkpoints.make_checkpoint(tmp_path / "checkpoint")
    command = server.run("build-engine", "llava", "--checkpoint", tmp_path / "checkpoint", "--output", tmp_path / "e")
    assert command.code == 0, command.stderr
    assert command.stdout.startswith("checkpoint: 2 decoder layers of 64, 16 image tokens, ")
    assert command.stdout.endswith(f"\nNext: recap-fast run --engine {tmp_path}/e --shards IMAGES --output captions\n")
    command = server.run("build-engine", "llava", "--checkpoint", tmp_path / "checkpoint", "--output", tmp_path / "e")
    assert command.code == 2
    assert "--overwrite" in command.stderr
    command = server.run("build-engine", "lava", "--checkpoint", tmp_path / "checkpoint", "--output", tmp_path / "e")
    assert command.code == 2
    assert "did you mean 'llava'?" in command.stderr
    assert "Traceback" not in command.stderr


def test_an_engine_of_tensorrt_llm_is_not_tuned(tmp_path):
    build = ["build-engine", "llava", "--checkpoint", tmp_path, "--output", tmp_path / "engine", "--tune"]
    done = CliRunner().invoke(cli, [*map(str, build), "--backend", "tensorrt-llm"])
    assert done.exit_code == 2
    assert "--tune is for --backend torch" in done.stderr


def test_an_engine_is_tuned_when_it_is_built_and_later(tmp_path, monkeypatch):
    checkpoints.make_checkpoint(tmp_path / "checkpoint")
    quick = functools.partial(tuning.tune, seconds=0.01, candidates=[Sizes(num_slots=4, prefill_images=2)])
    monkeypatch.setattr(tuning, "tune", quick)
    build = ["build-engine", "llava", "--checkpoint", tmp_path / "checkpoint", "--output", tmp_path / "engine"]
    for command in ([*build, "--tune"], ["tune", "--engine", tmp_path / "engine", "--device", "cpu"]):
        done = CliRunner().invoke(cli, [*map(str, command)])
        assert done.exit_code == 0, done.output
        assert "  num_slots    4, prefill_images  2: " in done.stderr
        assert done.stdout.splitlines()[-3].split() == ["num_slots", "prefill_images", "images/s", "seconds"]
        assert "<- kept" in done.stdout
        assert (tmp_path / "engine/tuning.json").is_file()
        (tmp_path / "engine/tuning.json").unlink()


# -- a run -------------------------------------------------------------------------------------------------------------


def test_underscores_will_do(server, tiny_engine, inputs, tmp_path):
    command = server.run(
        *("run", "--engine", tiny_engine, "--input", f"{inputs}/*.tar", "--output_folder", tmp_path / "a_b"),
        *("--decoder", "pillow", "--max_new_tokens=4", "--max_error_rate", "1", "--no_loop_stop", "--dry_run"),
    )
    assert command.code == 0, command.stderr
    assert f"{tmp_path}/a_b/data/00000.parquet" in command.stderr


def test_a_prompt_from_a_file(server, tiny_engine, inputs, tmp_path):
    (tmp_path / "ask.txt").write_text("\ufeffWhat color is it?\n")
    out = tmp_path / "out"
    assert server.run(*arguments(tiny_engine, inputs, out, "--prompt_file", tmp_path / "ask.txt")).code == 0
    assert json.loads((out / "run.json").read_text())["fingerprint"]["prompt"] == "What color is it?"


def test_prompts_from_several_files(server, tiny_engine, inputs, tmp_path):
    (tmp_path / "a.txt").write_text("What color is it?\n")
    (tmp_path / "b.txt").write_text("why=Why?\nSay it.\n")
    files = ("--prompt-file", tmp_path / "a.txt", "--prompt-file", tmp_path / "b.txt")
    assert server.run(*arguments(tiny_engine, inputs, tmp_path / "out", *files)).code == 0
    asked = json.loads((tmp_path / "out" / "run.json").read_text())["fingerprint"]["prompts"]
    assert asked == [{"prompts": {"prompt1": "What color is it?"}}, {"prompts": {"why": "Why?\nSay it."}}]


def test_plain_lines_where_there_is_no_terminal(server, tiny_engine, inputs, tmp_path):
    command = server.run(*arguments(tiny_engine, inputs, tmp_path / "out"))
    assert command.code == 0
    assert "\r" not in command.stderr
    assert "\x1b" not in command.stderr
    lines = command.stderr.splitlines()
    assert [line.split()[0] for line in lines] == [
        "shards",
        "decoder",
        "engine",
        "8",
        *["8", "Which", "Captions", "Held", "Flags", "All"],
    ]
    assert lines[3].startswith("8 captions, 2 failed (2 not_an_image) in ")
    assert lines[3].endswith("; decoder pillow, backend torch, float32")
    assert lines[-1] == "All 2 shards are done."
    assert command.stdout == ""


def test_json_lines_and_nothing_else(server, tiny_engine, inputs, tmp_path):
    (tmp_path / "in").mkdir()
    for tar in inputs.iterdir():
        (tmp_path / "in" / tar.name).write_bytes(tar.read_bytes()[:6000])
    command = server.run(*arguments(tiny_engine, tmp_path / "in", tmp_path / "out", "--log-format", "json"))
    assert command.code == 1
    events = [json.loads(line) for line in command.stderr.splitlines()]
    assert {"shards", "decoder", "engine", "warning", "summary", "failure"} <= {event["event"] for event in events}
    assert all({"event", "time", "message"} <= event.keys() for event in events)
    result = {"event": "result", "outcome": "failure", "exit_code": 1, "shards_left": 2, "kept": 0}
    result |= {"output": f"{tmp_path}/out", "captions": [f"{tmp_path}/out/data"]}
    assert {"rows", "captioned", "failed", "cut"} <= events[-1].keys()
    assert result.items() <= events[-1].items()
    refused = server.run(*arguments("/nowhere", inputs, tmp_path / "other", "--log-format", "json"))
    assert refused.code == 2
    (event,) = [json.loads(line) for line in refused.stderr.splitlines()]
    assert event["event"] == "error"
    assert event["message"].startswith("recap-fast: /nowhere is not an engine directory")


def test_a_live_line_on_a_terminal(server, tiny_engine, inputs, tmp_path):
    terminal, gate = Terminal(), tmp_path / "gate"
    command = server.start(*arguments(tiny_engine, inputs, tmp_path / "out"), gate=gate, stderr=terminal.path)
    line = re.compile(r"\d of (about )?10 \(\d+%\).*shards 0/2")
    wait_until(lambda: line.search(terminal.text), lambda: terminal.text)
    gate.touch()
    code, text = command.wait(), terminal.close()
    assert code == 0
    assert text.rstrip().endswith("All 2 shards are done.")
    assert "\x1b[2K8 captions, 2 failed" in text, "the live line is gone at the end"


# -- verify ------------------------------------------------------------------------------------------------------------


def test_verify_proves_a_whole_output_and_names_each_gap(server, tiny_engine, inputs, tmp_path):
    out = tmp_path / "out"
    assert server.run(*arguments(tiny_engine, inputs, out)).code == 0
    command = server.run("verify", out)
    assert command.code == 0
    assert command.stdout == (
        "shards     2\nrows       10\ncaptioned  8\nfailed     2  (2 not_an_image)\n"
        "Proven: every image has exactly one row, every file is as it was written.\n"
    )
    command = server.run("verify", out, "--shards", f"{inputs}/*.tar")
    assert command.code == 0
    assert "as it was written, and each row is of the image that it names." in command.stdout
    (out / "manifests" / "00001.json").unlink()
    command = server.run("verify", out)
    assert command.code == 4
    assert "\nfault: 00001 is not finished: run its command again\n" in command.stdout
    assert "Not proven: 1 fault." in command.stdout
    command = server.run("verify", out, "--json")
    assert command.code == 4
    found = json.loads(command.stdout)
    assert (found["proven"], found["num_shards"], found["failed"]) == (False, 2, {"not_an_image": 1})
    assert [(fault["shard"], fault["kind"]) for fault in found["faults"]] == [("00001", "no record")]


def test_verify_of_no_output_is_a_usage_error(server, tmp_path):
    command = server.run("verify", tmp_path)
    assert command.code == 2
    assert command.stderr == f"recap-fast: {tmp_path} has no run.json: it is not the --output of a run.\n"
