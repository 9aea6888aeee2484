"""`recap-fast export`: what it says and how it ends, whatever ends it."""

import json
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from support.exports import below, make_output
from support.shard_files import webdataset_members, write_tar

from recap_fast.cli.main import cli
from recap_fast.export import job

DYING = """
import os, signal, sys
from recap_fast.cli.main import main
from recap_fast.export.tar_copy import TarCopy
number, finish, left = int(sys.argv.pop(1)), TarCopy.finish, [1]

def dying(self):
    finish(self)
    if not left:
        os.kill(os.getpid(), number)
    left.clear()

TarCopy.finish = dying
main()
"""
"""A process that a signal reaches when it has copied its second tar, which has no name yet."""


@pytest.fixture
def made(tmp_path):
    """The output of three tars."""
    for number in range(3):
        write_tar(tmp_path / f"in/{number:05d}.tar", webdataset_members(4, first=4 * number))
    return make_output(tmp_path / "out", tmp_path / "in")


def run(*words):
    return CliRunner().invoke(cli, ["export", *map(str, words)])


def words(tmp_path, target, *more):
    return [tmp_path / "out", "--to", "webdataset", "--target", tmp_path / target, *more]


def test_what_it_says(made, tmp_path):
    done = run(*words(tmp_path, "tars"))
    assert done.exit_code == 0
    assert done.stdout.splitlines()[:4] == [
        "shards   3 exported",
        "samples  12",
        "verified 36 members read back: 24 are byte for byte those of the inputs, headers and all; 12 are as they were "
        "written",
        f"files    {tmp_path}/tars",
    ]
    again = run(*words(tmp_path, "tars"))
    assert again.stdout.splitlines()[:2] == ["shards   0 exported, 3 already there", "samples  12"]
    assert again.stdout.splitlines()[2:] == done.stdout.splitlines()[2:]


def test_shards_that_are_not_finished_are_named_and_the_others_exported(made, tmp_path):
    (tmp_path / "out/manifests/00001.json").unlink()
    done = run(*words(tmp_path, "tars"))
    assert done.exit_code == 1
    assert "1 shard (00001) not finished, and so not exported. Finish the run, then export again." in done.stdout
    assert list(below(tmp_path / "tars")) == ["00000.tar", "00002.tar"]
    assert "{00000,00002}.tar" in done.stdout


def test_inputs_that_are_gone_are_named_with_what_to_do(made, tmp_path, monkeypatch):
    monkeypatch.setattr("recap_fast.cli.export.MAX_NAMES", 2)
    (tmp_path / "in").rename(tmp_path / "moved")
    done = run(*words(tmp_path, "tars"))
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "shards   0 exported",
        "samples  0",
        f"problem: {tmp_path}/in/00000.tar is not there",
        f"problem: {tmp_path}/in/00001.tar is not there",
        "3 shards not exported. 1 more is not listed. If the inputs have moved, add --relocate OLD=NEW. Then run the "
        "same command again.",
    ]
    assert run(*words(tmp_path, "tars", "--relocate", f"{tmp_path}/in={tmp_path}/moved")).exit_code == 0


def test_it_names_the_shards_that_the_run_could_not_read_to_their_end(made, tmp_path):
    record = tmp_path / "out/manifests/00001.json"
    record.write_text(json.dumps({**json.loads(record.read_bytes()), "status": "truncated"}))
    done = run(*words(tmp_path, "tars"))
    assert done.exit_code == 0
    assert "1 shard (00001) not read to the end by the run, so rows are missing. Start the run again." in done.stdout


def test_a_file_of_others_in_the_target_stays(made, tmp_path):
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/00001.tar").write_bytes(b"mine")
    done = run(*words(tmp_path, "tars"))
    assert "00001.tar is there already, and this export did not write it" in str(done.exception)
    assert (tmp_path / "tars/00001.tar").read_bytes() == b"mine"
    assert run(*words(tmp_path, "tars", "--overwrite")).exit_code == 0
    run(*words(tmp_path, "fresh"))
    assert below(tmp_path / "tars") == below(tmp_path / "fresh")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_whatever_ends_it_the_same_command_goes_on(made, tmp_path, number):
    command = [sys.executable, "-c", DYING, str(int(number)), "export", *map(str, words(tmp_path, "tars"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 75), done.stderr
    assert ("the same command goes on" in done.stderr) == (number != signal.SIGKILL)
    assert list(below(tmp_path / "tars"))[-1] == "00000.tar"
    before = (tmp_path / "tars/00000.tar").stat()
    again = run(*words(tmp_path, "tars"))
    assert again.stdout.splitlines()[0] == "shards   2 exported, 1 already there"
    assert (tmp_path / "tars/00000.tar").stat() == before
    run(*words(tmp_path, "fresh"))
    assert below(tmp_path / "tars") == below(tmp_path / "fresh")


def test_several_processes_write_the_same(made, tmp_path, monkeypatch):
    run(*words(tmp_path, "one"))
    monkeypatch.setattr(job, "FEW_ROWS", 1)
    done = run(*words(tmp_path, "two", "--workers", 2))
    assert done.stdout.replace("two", "one") == run(*words(tmp_path, "one")).stdout.replace(
        "0 exported, 3 already there", "3 exported"
    )
    assert below(tmp_path / "one") == below(tmp_path / "two")


def test_an_output_and_inputs_in_a_bucket(tmp_path, s3_bucket, s3_server):
    write_tar(tmp_path / "in/00000.tar", webdataset_members(4))
    make_output(tmp_path / "out", tmp_path / "in")
    s3_server.upload(tmp_path / "in", f"{s3_bucket}/in")
    s3_server.upload(tmp_path / "out", f"{s3_bucket}/out")
    moved = "--relocate", f"{tmp_path}/in={s3_bucket}/in"
    done = run(f"{s3_bucket}/out", "--to", "webdataset", "--target", tmp_path / "tars", *moved)
    assert done.exit_code == 0, done.output + str(done.exception)
    run(*words(tmp_path, "local"))
    assert below(tmp_path / "tars") == below(tmp_path / "local")


def test_inputs_of_another_run(made, tmp_path):
    write_tar(tmp_path / "other/x.tar", webdataset_members(1))
    done = run(*words(tmp_path, "tars", "--shards", tmp_path / "other"))
    assert str(done.exception) == (
        f"--shards: {made.address} has no captions of these inputs. Give inputs of the run; if they have moved, add "
        "--relocate OLD=NEW."
    )
