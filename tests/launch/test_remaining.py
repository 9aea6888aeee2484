"""What a run would find done in a folder, and what it would do, is what `plan` says."""

import pytest
from support import pictures

from recap_fast.errors import ConfigError
from recap_fast.launch.remaining import Done, find_remaining
from recap_fast.shards.expand import expand


def remaining(output, *values):
    shards, done = find_remaining(expand([str(value) for value in values]), output)
    return [shard.name for shard in shards], done


def test_without_an_output_or_before_the_first_run_all_is_left(small_inputs, tmp_path):
    for output in (None, tmp_path / "out"):
        assert remaining(output, small_inputs) == (["00000", "00001"], Done())
    assert not (tmp_path / "out").exists()


def test_finished_shards_are_done_and_a_shard_that_was_not_finished_is_not(start, small_inputs, tmp_path):
    start(limit=7)
    out = tmp_path / "out"
    size = (out / "data/00000.parquet").stat().st_size
    assert remaining(out, small_inputs) == (["00001"], Done(shards=1, rows=6, size_bytes=size))
    start()
    left, done = remaining(out, small_inputs)
    assert (left, done.shards, done.rows) == ([], 2, 12)


def test_an_output_in_a_bucket(start, small_inputs, s3_bucket):
    out = f"{s3_bucket}/out"
    assert remaining(out, small_inputs) == (["00000", "00001"], Done())
    start(output=out, limit=7)
    left, done = remaining(out, small_inputs)
    assert (left, done.shards, done.rows) == (["00001"], 1, 6)
    assert done.size_bytes > 0


def test_new_images_of_a_folder_are_a_unit_of_their_own(start, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()

    def draw(*names):
        for seed, name in enumerate(names):
            (folder / name).write_bytes(pictures.encode(pictures.noise(20, 16, seed=seed), "PNG"))

    draw("a.png", "b.png")
    start(shards=(str(folder),))
    draw("c.png")
    left, done = remaining(tmp_path / "out", folder)
    assert (left, done.shards, done.rows) == (["00001"], 1, 2)


def test_a_run_file_that_cannot_be_read_is_refused(small_inputs, tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json cannot be read"):
        remaining(tmp_path, small_inputs)
