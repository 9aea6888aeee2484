"""inputs/workload.py: lengths, the check that makes a comparison worth something, our run; peers' pixels."""

import dataclasses
import statistics

import numpy as np
import pytest
from contest.peers import protocol
from inputs import checkpoints, workload
from transformers import CLIPImageProcessorPil

from recap_fast.bench.synthetic import jpeg
from recap_fast.decode.pillow import decode_rgb, preprocess_image
from recap_fast.records import Preprocess

LENGTHS = [8, 3, 5]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workload")
    checkpoints.make_checkpoint(folder / "checkpoint", "hf4", preprocess="crop")
    return workload.make_workload(folder, folder / "checkpoint", len(LENGTHS), threads=1)


@pytest.fixture
def ours(job):
    contestant = workload.RecapFast(dataclasses.replace(job, settings={"num_slots": 4, "prefill_images": 2}))
    yield contestant
    contestant.close()


def test_fixed_lengths_are_64():
    assert workload.fixed_lengths(3) == [64, 64, 64]


def test_varied_lengths_are_log_normal_and_clipped():
    lengths = workload.varied_lengths(20_000)
    assert (min(lengths), max(lengths)) == (16, 128)
    assert statistics.median(lengths) == pytest.approx(44, abs=1)
    assert statistics.mean(lengths) == pytest.approx(44 * 2.718 ** (0.55**2 / 2), rel=0.05)


def test_varied_lengths_are_the_same_each_time():
    assert workload.varied_lengths(50) == workload.varied_lengths(50)
    assert workload.varied_lengths(50) != workload.varied_lengths(50, seed=1)


def test_check_accepts_equal_captions():
    workload.check("x", [[1, 2], [3]], [2, 1], [[1, 2], [3]])


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ([[1, 2]], "x returned 1 captions for 2 images"),
        ([[1], [3]], "x, image 0: 1 tokens, 2 were asked for"),
        ([[1, 2], [3, 4]], "x, image 1: 2 tokens, 1 were asked for"),
        ([[1, 9], [3]], "x, image 0: token 1 is 9, in the first captions it is 2"),
    ],
)
def test_check_refuses_what_differs(captions, message):
    with pytest.raises(workload.MismatchError, match=message):
        workload.check("x", captions, [2, 1], [[1, 2], [3]])


def test_agreement_counts_equal_captions_and_the_tokens_before_a_difference():
    found = workload.agreement([[1, 2, 3], [4, 9, 6], [7]], [[1, 2, 3], [4, 5, 6], [8]])
    assert found == {"equal_captions": 1 / 3, "mean_equal_tokens": (3 + 1 + 0) / 3}


def test_recap_fast_gives_captions_of_the_requested_lengths(ours):
    done = ours.run(LENGTHS)
    assert [len(ids) for ids in done.captions] == LENGTHS
    assert len(set(map(tuple, done.captions))) == len(LENGTHS)


def test_a_wrong_row_in_the_output_fails(ours, monkeypatch):
    text, stages = ours._tokenizer.detokenize, workload.Stages

    def garbled(rows):
        return [caption + "x" for caption in text(rows)]

    monkeypatch.setattr(workload, "Stages", lambda **parts: stages(**{**parts, "detokenize": garbled}))
    with pytest.raises(workload.MismatchError, match="do not hold the captions that the engine generated"):
        ours.run(LENGTHS)


def test_a_job_survives_its_file(job, tmp_path):
    job.write(tmp_path / "job.json")
    assert protocol.Job.read(tmp_path / "job.json") == job
    assert job.prompt_ids.count(job.image_token_id) == job.num_image_tokens


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("size", workload.IMAGE_SIZES)
def test_pixels_of_peers_are_ours(job, mode, size):
    data = jpeg(*size, seed=1)
    preprocess = Preprocess(job.image_size, mode, tuple(job.mean), tuple(job.std))
    expected = preprocess_image(decode_rgb(data, 1 << 20), preprocess)
    np.testing.assert_array_equal(protocol.decode(data, dataclasses.replace(job, mode=mode)), expected)


def test_pixels_of_peers_are_those_of_transformers_own_processor(job):
    processor = CLIPImageProcessorPil.from_pretrained(job.checkpoint)
    data = jpeg(160, 120, seed=1)
    (expected,) = processor([decode_rgb(data, 1 << 20)], return_tensors="np")["pixel_values"]
    pixels = (protocol.decode(data, job) / 255 - job.mean) / job.std
    np.testing.assert_allclose(pixels.transpose(2, 0, 1), expected, rtol=0, atol=1e-6)
