"""`recap-fast score`: from a run's output to scores that `load_dataset` shows, stopped and gone on with."""

import json
import subprocess
import sys

import datasets
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from support.guard import GUARD_S

from inputs.clips import make_clip
from recap_fast.cli.main import cli
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.rows import read_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "tiny-clip", image_size=32, hidden_size=64, num_layers=1)


@pytest.fixture
def output(start, tmp_path):
    """Of two tars of six pictures."""
    start()
    return tmp_path / "out"


def score(*words, code=0):
    done = CliRunner().invoke(cli, ["score", *map(str, words)])
    assert done.exit_code == code, done.output
    return done


def test_scores_fill_the_columns_and_are_a_configuration_of_the_dataset(output, model, tmp_path):
    lines = score(output, "--model", model).stdout.splitlines()
    assert lines[0].startswith("scored          12 images of 2 shards, ")
    assert lines[1].startswith("re_clip_score   mean ")
    assert lines[2].startswith("org_clip_score  mean ")
    assert lines[-2] == f"files           {output}/scores/clip/**/*.parquet"
    assert lines[-1] == f'load            datasets.load_dataset("{output}", "clip_scores")'
    cache = str(tmp_path / "cache")
    scored = datasets.load_dataset(str(output), "clip_scores", split="train", cache_dir=cache)
    captions = datasets.load_dataset(str(output), split="train", cache_dir=cache)
    assert scored["index"] == captions["index"]
    assert scored["shard"] == captions["shard"]
    rows = [r for b in read_rows(OutputFolder.at(output), "00001", ["re_clip_score"]) for r in b.to_pylist()]
    assert [row["re_clip_score"] for row in rows] == scored["re_clip_score"][6:]
    assert len({round(value, 3) for value in scored["org_clip_score"]}) > 6


def test_the_second_call_has_nothing_to_do_and_a_run_keeps_the_card(output, model, start):
    score(output, "--model", model)
    before = (output / "README.md").read_text()
    assert "clip_scores" in before
    files = {path: path.stat().st_mtime_ns for path in (output / "scores/clip").rglob("*.parquet")}
    assert "scored          0 images of 0 shards\n" in score(output, "--model", model).stdout
    assert files == {path: path.stat().st_mtime_ns for path in (output / "scores/clip").rglob("*.parquet")}
    start()
    assert (output / "README.md").read_text() == before


def test_another_kind_is_refused_or_replaces(output, model):
    score(output, "--model", model)
    refused = score(output, "--model", model, "--kind", "softmax", code=2)
    assert "  kind: 'cosine' there, 'softmax' now\n" in refused.stderr
    score(output, "--model", model, "--kind", "softmax", "--overwrite")
    table = pq.read_table(output / "scores/clip/00000.parquet")
    pairs = zip(table["re_clip_score"].to_pylist(), table["org_clip_score"].to_pylist(), strict=True)
    assert [re + org for re, org in pairs] == pytest.approx([100.0] * 6)
    assert json.loads((output / "scores/clip.json").read_text())["settings"]["kind"] == "softmax"


def test_an_input_that_is_gone_ends_with_1_and_the_others_have_scores(output, model, small_inputs):
    (small_inputs / "00000.tar").rename(small_inputs / "elsewhere")
    done = score(output, "--model", model, code=1)
    assert "shard 00000 was not scored: " in done.stderr
    assert "scored          6 images of 1 shard, " in done.stdout
    (small_inputs / "elsewhere").rename(small_inputs / "00000.tar")
    assert "scored          6 images of 1 shard, " in score(output, "--model", model).stdout


def test_shards_that_are_not_finished_are_counted(start, tmp_path, model):
    start(limit=8)
    lines = score(tmp_path / "out", "--model", model).stdout.splitlines()
    assert "note: 1 shard is not finished and has no scores yet." in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--model is missing: give the folder of a CLIP, LongCLIP or SigLIP."),
        (["--model", "none"], "There is no folder none: --model takes the folder"),
        (["--batch-size", "0"], "--batch-size 0: give a count of at least 1."),
        (["--max-error-rate", "-1"], "--max-error-rate -1.0: give a share from 0 to 1."),
        (["--max-error-rate", "nan"], "--max-error-rate nan: give a share from 0 to 1."),
        (
            ["--judge", "a"],
            "--endpoint and --judge are for --kind rating, and the kind is cosine: give the one you mean.",
        ),
        (["--kind", "rating"], "--model is for the other kinds: --kind rating takes --endpoint URL and --judge NAME."),
        (["--device", "tpu"], "--device tpu: give auto, cpu, cuda or cuda:N."),
    ],
)
def test_usage(output, model, words, message):
    words = words if not words or "--model" in words else ["--model", model, *words]
    assert message in score(output, *words, code=2).stderr
    assert not (output / "scores").exists()


def test_what_is_no_output_is_refused(tmp_path, model):
    assert "it is not the --output of a run" in score(tmp_path, "--model", model, code=2).stderr


STOPPING = """
import os, signal, sys
from recap_fast.cli.main import main
from recap_fast.score import reading

take = reading.Work.take

def take_and_stop(work, score):
    take(work, score)
    if score.shard == "00001":
        os.kill(os.getpid(), signal.SIGTERM)

reading.Work.take = take_and_stop
main()
"""


def test_a_signal_stops_it_and_the_same_command_goes_on(output, model):
    words = ["score", output, "--model", model, "--batch-size", "4"]
    command = [sys.executable, "-c", STOPPING, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=False)
    assert done.returncode == 75, done.stderr
    assert done.stderr.endswith("Stopped by a signal; the same command goes on from here.\n")
    assert [path.name for path in (output / "scores/clip").iterdir()] == ["00000.parquet"]
    assert "scored          6 images of 1 shard, " in score(output, "--model", model).stdout


def test_an_output_in_a_bucket_gets_its_scores_there(start, s3_bucket, model):
    start(output=f"{s3_bucket}/out")
    done = score(f"{s3_bucket}/out", "--model", model)
    assert f"files           {s3_bucket}/out/scores/clip/**/*.parquet" in done.stdout
    assert "scored          0 images of 0 shards\n" in score(f"{s3_bucket}/out", "--model", model).stdout
    output = OutputFolder.at(f"{s3_bucket}/out")
    assert [file.name for file in output.store.list("scores/clip")] == [
        "scores/clip/00000.parquet",
        "scores/clip/00001.parquet",
    ]
    assert b"clip_scores" in output.store.read("README.md", 1 << 20)[0]
