"""The contestants: the job that they get, our own run of it, and the pixels that peers are given."""

import dataclasses

import numpy as np
import pytest
from support.runs import write_pictures
from transformers import CLIPImageProcessorPil

from contest.contest import MismatchError
from contest.engines import make_job, put_images
from contest.peers import protocol, recap_fast
from contest.presets import PRESETS
from inputs import checkpoints
from recap_fast.bench.synthetic import jpeg
from recap_fast.decode.pillow import decode_rgb, preprocess_image
from recap_fast.errors import ConfigError
from recap_fast.records import Preprocess

LENGTHS = [8, 3, 5]
IMAGE_SIZES = PRESETS["cpu"].image_sizes


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workload")
    checkpoints.make_checkpoint(folder / "checkpoint", "hf4", preprocess="crop")
    put_images(folder, len(LENGTHS), IMAGE_SIZES)
    return make_job(folder, folder / "checkpoint", "float32", "llava", None, threads=1, device="cpu")


@pytest.fixture
def ours(job):
    contestant = recap_fast.RecapFast(dataclasses.replace(job, settings={"num_slots": 4, "prefill_images": 2}))
    yield contestant
    contestant.close()


def test_recap_fast_gives_captions_of_the_requested_lengths_and_the_same_again(ours):
    engine = ours.captioner.engine
    done = ours.run(LENGTHS)
    assert [len(ids) for ids in done.captions] == LENGTHS
    assert len(set(map(tuple, done.captions))) == len(LENGTHS)
    assert ours.run(LENGTHS).captions == done.captions
    assert ours.captioner.engine is engine, "it stays open"


def test_a_wrong_row_in_the_output_fails(ours, monkeypatch):
    text = ours.captioner.detokenize
    monkeypatch.setattr(ours.captioner, "detokenize", lambda rows: [caption + "x" for caption in text(rows)])
    with pytest.raises(MismatchError, match="do not hold the captions that the engine generated"):
        ours.run(LENGTHS)


@pytest.mark.parametrize(
    ("mode", "resample"), [("crop", "bicubic"), ("pad", "bicubic"), ("stretch", "bicubic"), ("stretch", "lanczos")]
)
@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_pixels_of_peers_are_ours(job, mode, resample, size):
    data = jpeg(*size, seed=1)
    preprocess = Preprocess(job.image_size, mode, tuple(job.mean), tuple(job.std), resample)
    expected = preprocess_image(decode_rgb(data, 1 << 20), preprocess)
    given = dataclasses.replace(job, mode=mode, resample=resample)
    np.testing.assert_array_equal(protocol.decode(data, given), expected)


def test_pixels_of_peers_are_those_of_transformers_own_processor(job):
    processor = CLIPImageProcessorPil.from_pretrained(job.checkpoint)
    data = jpeg(160, 120, seed=1)
    (expected,) = processor([decode_rgb(data, 1 << 20)], return_tensors="np")["pixel_values"]
    pixels = (protocol.decode(data, job) / 255 - job.mean) / job.std
    np.testing.assert_allclose(pixels.transpose(2, 0, 1), expected, rtol=0, atol=1e-6)


def test_images_may_come_from_shards(tmp_path):
    shards = write_pictures(tmp_path / "in", 2, 4, bad=[1])
    assert put_images(tmp_path, 5, [], [f"{shards}/*.tar"]) == 5
    assert len(list((tmp_path / "images").iterdir())) == 5
    assert put_images(tmp_path, 9, [], [f"{shards}/*.tar"]) == 6, "those that cannot be decoded are left out"
    assert len(list((tmp_path / "images").iterdir())) == 6
    write_pictures(tmp_path / "bad", 1, 1, bad=[0])
    with pytest.raises(ConfigError, match="none of the images can be decoded"):
        put_images(tmp_path, 9, [], [f"{tmp_path}/bad/*.tar"])
