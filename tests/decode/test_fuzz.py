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


def decode(decoder, first, last):
    """A process that decodes these; raises TimeoutExpired where it hangs."""
    paths = os.pathsep.join(map(str, (HERE.parents[1], Path(recap_fast.__file__).parents[1])))
    return subprocess.run(
        [sys.executable, HERE, decoder, str(first), str(last)],
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def check(decoder, first, last):
    """Fails with the number of the image, where one of these ends the process."""
    done = decode(decoder, first, last)
    if done.returncode or done.stderr:
        batch = int(done.stdout.split()[-1]) if done.stdout else first
        bad = [
            n for n in range(batch, batch + mutants.BATCH) if (d := decode(decoder, n, n + 1)).returncode or d.stderr
        ]
        pytest.fail(
            f"{decoder} ended with {done.returncode} at {bad or f'the batch from {batch}'}: {done.stderr[-2000:]}"
        )


@pytest.mark.parametrize(
    "decoder", ["pillow", pytest.param("dali", marks=pytest.mark.skipif(not HAS_DALI, reason="no"))]
)
def test_a_few_mutants(decoder):
    check(decoder, 0, 320)


@pytest.mark.fuzz
@pytest.mark.parametrize(
    "decoder", ["pillow", pytest.param("dali", marks=pytest.mark.skipif(not HAS_DALI, reason="no"))]
)
def test_no_mutant_ends_a_process(decoder, request):
    start = int(request.config.getoption("--hypothesis-seed") or 0) * NUM_IMAGES
    for first in range(start, start + NUM_IMAGES, CHUNK):
        check(decoder, first, first + CHUNK)
