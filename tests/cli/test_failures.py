"""`recap-fast failures`: a line for each image without a caption, or a JSON object, and what to do."""

import json

import pytest
from click.testing import CliRunner
from support import pictures

from recap_fast.cli.main import cli

NAMES = ["a.jpg", "b.jpg", "new\nline.jpg"]


@pytest.fixture
def output(start, tmp_path):
    """Of a folder with one good image, an empty one, and two that are none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, content in zip(NAMES, (b"x" * 99, b"", b"x" * 99), strict=True):
        (folder / name).write_bytes(content)
    (folder / "good.png").write_bytes(pictures.encode(pictures.noise(20, 16, seed=1), "PNG"))
    start(shards=(str(folder),))
    return tmp_path / "out"


def listed(*words):
    done = CliRunner().invoke(cli, ["failures", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_a_line_for_each_image_and_what_to_do(output):
    lines = listed(output)
    assert [line.partition(": ")[0] for line in lines[:3]] == [
        "a.jpg  not_an_image",
        "b.jpg  empty_image",
        "new\\nline.jpg  not_an_image",
    ]
    assert lines[3:5] == ["", "3 images failed."]
    assert lines[-1] == "To retry the images as they are, run again with --retry-failed."


def test_an_object_for_each_image(output):
    found = [json.loads(line) for line in listed(output, "--json")]
    assert [entry["file_name"] for entry in found] == NAMES
    assert {entry["shard"] for entry in found} == {"00000"}


def test_statuses_choose_images_and_are_to_be_retried(output):
    lines = listed(output, "--status", "empty_image,corrupt")
    assert lines[0].startswith("b.jpg  empty_image: ")
    assert lines[2] == "1 image failed."
    assert lines[-1] == "To retry the images as they are, run again with --retry-failed empty_image,corrupt."
    assert listed(output, "--status", "corrupt") == ["No image has failed with corrupt."]


def test_a_status_that_is_none_is_answered_with_the_nearest(output):
    done = CliRunner().invoke(cli, ["failures", str(output), "--status", "corupt"])
    assert "--status corupt: give one of " in str(done.exception)
    assert str(done.exception).endswith("Did you mean corrupt?")
