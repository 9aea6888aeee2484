"""100,000 damaged images through each decoder, in processes of their own: none may end one, hang it or make it noisy.

`python tests/support/mutants.py DECODER N N+1` replays number N.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import mutants
from support.guard import GUARD_S

import recap_fast

NUM_IMAGES = 100_000
CHUNK = 2_000
HERE = Path(mutants.__file__)
HAS_DALI = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
NEEDS_DALI = pytest.mark.skipif(not HAS_DALI, reason="NVIDIA DALI is not installed")
DECODERS = pytest.mark.parametrize("decoder", ["pillow", pytest.param("dali", marks=NEEDS_DALI)])


def decode(decoder, first, last):
    """The exit code of a process that decodes these, the batches it began, and what was written to its standard error.

    Raises TimeoutExpired where it hangs.
    """
    paths = os.pathsep.join(map(str, (HERE.parents[1], Path(recap_fast.__file__).parents[1])))
    done = subprocess.run(
        [sys.executable, HERE, decoder, str(first), str(last)],
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    return (
        done.returncode,
        done.stdout,
        done.stderr.partition(mutants.READY)[2] if done.returncode == 0 else done.stderr,
    )


def check(decoder, first, last):
    """Fails with the number of the image, where one of these ends the process."""
    code, batches, said = decode(decoder, first, last)
    if code or said:
        batch = int(batches.split()[-1]) if code and batches else first
        numbers = range(batch, batch + mutants.BATCH) if code else range(first, last)
        bad = next((n for n in numbers if any(decode(decoder, n, n + 1)[::2])), f"the batch from {batch} on")
        pytest.fail(f"{decoder} ended with {code} at {bad}: {said[-2000:]}")


@DECODERS
def test_a_few_mutants(decoder):
    check(decoder, 0, 320)


@pytest.mark.fuzz
@DECODERS
def test_no_mutant_ends_a_process(decoder, request):
    start = int(request.config.getoption("--hypothesis-seed") or 0) * NUM_IMAGES
    for first in range(start, start + NUM_IMAGES, CHUNK):
        check(decoder, first, first + CHUNK)
