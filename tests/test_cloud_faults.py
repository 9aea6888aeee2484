"""Real runs from a bucket into a bucket whose server errs, refuses, loses answers, or loses the bucket: in the end the
rows are those of an undisturbed run."""

import random

import pytest
from support import runs
from support.chaos import Tally, disturb
from support.cloud_runs import CloudOutput, succeed
from support.fault_proxy import Fault
from support.runs import run_arguments

SHORT = ("--max-new-tokens", 4)
LOSE = Fault("lose")
DENY = Fault("status", 403, "ExpiredToken")


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


@pytest.fixture(scope="module")
def tally(request):
    """Of all disturbed runs; it is said at the end."""
    counted = Tally()
    yield counted
    request.config.get_terminal_writer().line(f"\n{counted}")


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
