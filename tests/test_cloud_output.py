"""Real runs in real processes into a bucket: killed, cut short, divided, at the same moment. In the end the rows are
those of a run into a local folder."""

import json
import signal

import pytest
from support import pictures, runs
from support.cloud_runs import CloudOutput, succeed
from support.runs import run_arguments

from recap_fast.store.opening import open_store
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import read_run

NUM_SHARDS, NUM_SAMPLES = 3, 16
NAMES = [f"{number:05d}" for number in range(NUM_SHARDS)]
SHORT = ("--max-new-tokens", 4)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return runs.write_pictures(tmp_path_factory.mktemp("in"), NUM_SHARDS, NUM_SAMPLES, bad=[3])


@pytest.fixture(scope="module")
def rows(tmp_path_factory, server, tiny_engine, inputs):
    """Those of a run into a local folder."""
    output = tmp_path_factory.mktemp("out")
    succeed(server.run(*run_arguments(tiny_engine, inputs, output, *SHORT)))
    return runs.read_rows(output)


@pytest.fixture
def output(s3_bucket, s3_server, server, tmp_path):
    return CloudOutput(f"{s3_bucket}/captions/of all", server, s3_server, tmp_path)


@pytest.fixture
def arguments(tiny_engine, inputs, output):
    """Of a run into the bucket."""
    return run_arguments(tiny_engine, inputs, output.address, *SHORT)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        picture(folder, number, seed=number)
    return folder


def picture(folder, number, seed):
    (folder / f"{number:02d}.png").write_bytes(pictures.encode(pictures.noise(20, 16, seed=seed), "PNG"))


def test_a_run_into_a_bucket_is_one_into_a_folder(server, output, inputs, arguments, rows):
    command = succeed(server.run(*arguments))
    assert f"Captions are in {output.address}/data." in command.stderr
    output.assert_whole(rows, f"{inputs}/*.tar")
    files = {each for name in NAMES for each in (f"data/{name}.parquet", f"manifests/{name}.json")}
    assert set(output.files()) == files | {"run.json", "local.json", "README.md", "metrics.jsonl"}
    command = succeed(server.run("failures", output.address))
    assert command.stdout.count("not_an_image") == NUM_SHARDS
    assert "Nothing to do" in succeed(server.run(*arguments)).stderr
    command = succeed(server.run(*arguments, "--retry-failed"))
    assert len(command.finished) == NUM_SHARDS
    output.assert_whole(rows)


def test_kills_and_limits_come_to_the_same_end(server, output, arguments, rows):
    for event, count in (("change", 3), ("change", 40), ("row", 20), ("change", 70)):
        command = server.run(*arguments, send=(signal.SIGKILL, event, count))
        assert command.code == -signal.SIGKILL, command.stderr
    command = succeed(server.run(*arguments, "--limit", 10))
    assert len(command.finished) == 10
    succeed(server.run(*arguments))
    succeed(server.run(*arguments, "--retry-failed", "crashed"))
    output.assert_whole(rows)


def test_a_signal_drains_and_nothing_is_done_twice(server, output, arguments, rows):
    command = server.run(*arguments, send=(signal.SIGTERM, "step", 6))
    assert command.code == 75, command.stderr
    first = set(command.finished)
    assert 0 < len(first) < len(rows)
    assert not first & set(succeed(server.run(*arguments)).finished)
    output.assert_whole(rows)


def test_a_dry_run_writes_nothing(server, output, arguments):
    command = succeed(server.run(*arguments, "--dry-run"))
    assert f"{output.address}/data/00000.parquet" in command.stdout + command.stderr
    assert output.files() == {}


def test_another_prompt_is_refused_until_overwrite(server, output, arguments, rows):
    succeed(server.run(*arguments))
    other = (*arguments, "--prompt", "What is it?")
    before = output.files()
    command = server.run(*other)
    assert command.code == 2
    assert f"{output.address} holds the output of a run with other settings" in command.stderr
    assert "would delete the captions of 3 shards" in server.run(*other, "--overwrite", "--dry-run").stderr
    assert output.files() == before
    assert server.run(*other, "--overwrite", send=(signal.SIGKILL, "row", 20)).code == -signal.SIGKILL
    succeed(server.run(*other, "--overwrite"))
    assert [row["key"] for row in output.rows()] == [row["key"] for row in rows]
    assert output.rows() != rows
    succeed(server.run(*arguments, "--overwrite"))
    output.assert_whole(rows)


def test_files_that_no_run_wrote_are_not_touched(server, output, arguments):
    open_store(output.address).put("data/mine.txt", b"mine")
    command = server.run(*arguments, "--overwrite")
    assert command.code == 2
    assert "no run made it (it has data)" in command.stderr
    assert output.files() == {"data/mine.txt": b"mine"}


def test_images_that_changed_are_done_again_and_those_that_are_gone_are_pruned(server, output, tiny_engine, photos):
    arguments = run_arguments(tiny_engine, photos, output.address, *SHORT)
    arguments[arguments.index(f"{photos}/*.tar")] = photos
    succeed(server.run(*arguments))
    before = {row["file_name"]: row for row in output.rows()}
    picture(photos, 3, seed=99)
    (photos / "05.png").unlink()
    picture(photos, 12, seed=12)
    command = succeed(server.run(*arguments, "--redo-changed", "--prune"))
    assert len(command.finished) == 2
    after = {row["file_name"]: row for row in output.rows()}
    assert set(after) == set(before) - {"05.png"} | {"12.png"}
    assert after["03.png"]["sha256"] != before["03.png"]["sha256"]
    output.assert_whole(output.rows(), photos)


def test_damage_is_found_and_mended(server, output, arguments, rows):
    succeed(server.run(*arguments))
    store = open_store(output.address)
    store.put("data/00000.parquet", output.files()["data/00000.parquet"][:-9])
    store.delete(["data/00001.parquet"])
    store.put("manifests/00002.json", b"{}")
    command = server.run("verify", output.address, "--json")
    assert command.code == 4
    kinds = {(fault["shard"], fault["kind"]) for fault in json.loads(command.stdout)["faults"]}
    assert {("00000", "wrong hash"), ("00001", "no output"), ("00002", "no record")} <= kinds
    succeed(server.run(*arguments))
    output.assert_whole(rows)


def test_parts_run_beside_each_other(server, output, arguments, rows):
    commands = [server.start(*arguments, "--part", f"{part}/2") for part in (1, 2)]
    done = [{line.split()[0] for line in succeed(command).finished} for command in commands]
    assert [len(each) for each in done] == [2, 1]
    output.assert_whole(rows)


@pytest.mark.parametrize("dies", [False, True])
def test_two_processes_on_the_same_shards_do_no_harm(tmp_path, server, output, arguments, rows, dies):
    gate, send = tmp_path / "gate", (signal.SIGKILL, "row", NUM_SAMPLES) if dies else None
    first, second = server.start(*arguments, gate=gate), server.start(*arguments, gate=gate, send=send)
    first.wait_for_step()
    second.wait_for_step()
    gate.touch()
    succeed(first)
    assert second.wait() == (-signal.SIGKILL if dies else 0), second.stderr
    succeed(server.run(*arguments))
    assert output.rows() == rows
    succeed(server.run("verify", output.address))


def test_processes_that_begin_at_once_register_every_input_once(server, output, tiny_engine, inputs, photos):
    """Their inputs overlap and lie below other common folders, so each of them would give them other names."""
    arguments = run_arguments(tiny_engine, inputs, output.address, *SHORT)
    tars = f"{inputs}/*.tar"
    place = arguments.index(tars)
    of_photos = [*arguments[:place], photos, *arguments[place + 1 :]]
    both = [*arguments, "--shards", photos]
    for command in [server.start(*each, "--limit", 1) for each in (both, arguments, both, of_photos)]:
        succeed(command)
    run = read_run(OutputFolder.at(output.address))
    assert sorted(run.shards.values()) == sorted([*(str(tar) for tar in inputs.iterdir()), str(photos)])
    succeed(server.run(*both))
    assert len(output.rows()) == NUM_SHARDS * NUM_SAMPLES + 12
    output.assert_whole(output.rows(), tars, photos)
