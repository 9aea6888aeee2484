"""Real runs from a bucket into a bucket whose server errs, refuses, loses answers, or loses the bucket: in the end the
rows are those of an undisturbed run."""

import random
import sys
import threading
from datetime import timedelta

import pytest
from support import folder_runs, runs, shard_files
from support.chaos import Tally, disturb
from support.cloud_runs import CloudOutput, succeed
from support.fault_proxy import seeded
from support.ledgers import wanted
from support.runs import run_arguments

from recap_fast.store import connection, persistence
from recap_fast.write.opening import open_output
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import read_run

SHORT = ("--max-new-tokens", 4)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return runs.write_pictures(tmp_path_factory.mktemp("in"), 3, 12, bad=[3])


@pytest.fixture
def inputs(s3_bucket, s3_server, pictures):
    s3_server.upload(pictures, f"{s3_bucket}/in")
    return f"{s3_bucket}/in"


@pytest.fixture
def output(s3_bucket, s3_server, server, tmp_path):
    return CloudOutput(f"{s3_bucket}/out", server, s3_server, tmp_path)


@pytest.fixture
def arguments(tiny_engine, inputs, output):
    """Of a run in the bucket."""
    return run_arguments(tiny_engine, inputs, output.address, *SHORT)


@pytest.fixture
def rows(server, tiny_engine, inputs, tmp_path):
    """Those of an undisturbed run into a local folder."""
    succeed(server.run(*run_arguments(tiny_engine, inputs, tmp_path / "undisturbed", *SHORT)))
    return runs.read_rows(tmp_path / "undisturbed")


@pytest.mark.parametrize("seed", range(3))
def test_what_registers_at_once_is_registered_once(seed, s3_faults, s3_bucket, tmp_path, monkeypatch):
    """Tars below other folders and images of one folder, so that both files of a run are written over by everyone."""
    monkeypatch.setattr(persistence, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setitem(connection.RETRIES, "backoff", {"init_backoff": timedelta(milliseconds=10)})
    folder_runs.write_images(tmp_path / "photos", [f"{number}.jpg" for number in range(5)])
    for number in range(5):
        shard_files.write_tar(tmp_path / f"{number}" / "a.tar", [])
    s3_faults.schedule = seeded(seed, 0.3)
    output, barrier, opened = OutputFolder.at(f"{s3_bucket}/out"), threading.Barrier(5), {}

    def register(number):
        wishes = wanted(tmp_path / f"{number}" / "a.tar", tmp_path / "photos")
        barrier.wait()
        opened[number] = open_output(output, wishes)

    threads = [threading.Thread(target=register, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    s3_faults.schedule = lambda _: None
    tars = [str(tmp_path / f"{number}" / "a.tar") for number in range(5)]
    assert sorted(read_run(output).shards.values()) == [*tars, str(tmp_path / "photos")]
    for number in range(5):
        assert sorted(shard.url for shard in opened[number]) == [tars[number], str(tmp_path / "photos")]
        assert {file.path for shard in opened[number] for file in shard.files} >= {f"{n}.jpg" for n in range(5)}
    assert s3_faults.faults.total() > 10


@pytest.fixture(scope="module")
def tally(request):
    """Of all disturbed runs; it is said at the end."""
    counted = Tally()
    yield counted
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        sys.stdout.write(f"\n{counted}\n")


@pytest.mark.chaos
@pytest.mark.parametrize("number", range(60))
def test_many_disturbed_runs(number, output, rows, s3_faults, arguments, tally):
    disturb(random.getrandbits(32), output, s3_faults, arguments, rows, tally)
    assert (tally.lost, tally.doubled) == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_disturbed_runs_come_to_the_end_of_an_undisturbed_one(seed, output, rows, s3_faults, arguments):
    tally = Tally()
    disturb(seed, output, s3_faults, arguments, rows, tally)
    assert tally.faults.total() > 10
