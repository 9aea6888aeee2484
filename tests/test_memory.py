"""The memory of `run` does not grow with the number of shards: peak resident set of fresh processes."""

import os
import subprocess
import sys

import pytest
from support import runs

SAMPLES_PER_SHARD = 6
NOISE_MB = 40
"""What the peaks of two equal runs differ by at most; a megabyte a shard would be 90."""


def peak_mb(engine, inputs, output) -> float:
    """Peak resident set of a run in its own process, in MB, as it tells itself: getrusage would count its parent's."""
    arguments = [str(a) for a in runs.run_arguments(engine, inputs, output, "--max-new-tokens", 2)]
    code = (
        "import sys\nfrom recap_fast.cli.main import main\ntry:\n    main()\n"
        "except SystemExit as end:\n    sys.stdout.write(f'{end.code} ' + open('/proc/self/status').read())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.startswith("0 "), done.stderr
    return int(done.stdout.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.slow
def test_ten_and_a_hundred_shards_take_the_same_memory(tmp_path, tiny_engine):
    few = runs.write_pictures(tmp_path / "few", 10, SAMPLES_PER_SHARD)
    many = runs.write_pictures(tmp_path / "many", 100, SAMPLES_PER_SHARD)
    peaks = [peak_mb(tiny_engine, few, tmp_path / "a"), peak_mb(tiny_engine, many, tmp_path / "b")]
    print(f"peak MB: {peaks}")  # noqa: T201 - the figures are wanted where it fails
    assert peaks[1] < peaks[0] + NOISE_MB
