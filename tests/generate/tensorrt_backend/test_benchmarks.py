"""TensorRT-LLM as a contestant, with the fake: its captions are those of recap-fast's own backend."""

import pytest

from contest.engines import make_job, put_images
from contest.peers.recap_fast import RecapFast
from contest.peers.tensorrt_llm import TensorRTLLM

pytestmark = pytest.mark.usefixtures("gpu")
LENGTHS = [4, 9, 6]


@pytest.fixture
def job(pair, tmp_path):
    put_images(tmp_path, len(LENGTHS), [(48, 40)])
    return make_job(tmp_path, pair.folder.parent / "checkpoint", "float32", "llava", None, threads=1, device="cpu")


def captions(kind, job):
    contestant = kind(job)
    try:
        return contestant.run(LENGTHS).captions
    finally:
        contestant.close()


def test_it_says_what_the_torch_backend_says(fake, job):
    expected = captions(RecapFast, job)
    assert captions(TensorRTLLM, job) == expected
    assert list(map(len, expected)) == LENGTHS
