"""The images of a gallery are small JPEGs in the page; those that cannot be had are a reason instead."""

import base64
import io
import shutil

import pytest
from PIL import Image
from support.captioned import SETTINGS, row, write
from support.folder_runs import run, write_images

from recap_fast.errors import ConfigError
from recap_fast.joined import JoinedOutput
from recap_fast.report.beside import Place
from recap_fast.report.pictures import MAX_SIDE, read_pictures, thumbnail
from recap_fast.write.output_folder import OutputFolder


def image_of(source):
    head, _, data = source.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_wanted_images_are_read_and_no_others(tmp_path):
    output = write(tmp_path, {"00000": [row(n) for n in range(4)], "00001": [row(9)]}, images=True)
    told = []
    found = read_pictures(JoinedOutput.open(output), {"00000": {1, 3}}, told.append)
    assert {*found.found} == {Place("00000", 1), Place("00000", 3)}
    assert {image_of(picture.source).size for picture in found.found.values()} == {(20, 16)}
    assert (found.problems, told) == ({}, [1])


def test_a_large_image_becomes_a_small_one():
    assert image_of(thumbnail(Image.new("RGB", (3000, 1500)))).size == (MAX_SIDE, MAX_SIDE // 2)


def test_the_fields_of_the_prompt_are_filled(tmp_path):
    settings = {**SETTINGS, "prompt": "{title}: {key}, {nothing}{{x}}"}
    output = write(tmp_path, {"00000": [row(0)]}, images=True, settings=settings)
    (picture,) = read_pictures(JoinedOutput.open(output), {"00000": {0}}).found.values()
    assert picture.filled == {settings["prompt"]: "A title: 000000000, {x}"}


def test_an_image_that_crashed_its_decoder_is_not_decoded(tmp_path):
    output = write(tmp_path, {"00000": [row(0, None, status="crashed")]}, images=True)
    (picture,) = read_pictures(JoinedOutput.open(output), {"00000": {0}}).found.values()
    assert picture.source is None
    assert picture.problem == "decoding it ended the process"


def test_a_shard_that_is_gone_says_where_it_was(tmp_path):
    output = write(tmp_path, {"00000": [row(0)], "00001": [row(1)]}, images=True)
    (tmp_path / "in" / "00000.tar").unlink()
    found = read_pictures(JoinedOutput.open(output), {"00000": {0}, "00001": {0}})
    assert {*found.found} == {Place("00001", 0)}
    assert found.problems["00000"] == f"{tmp_path}/in/00000.tar is not there"


def test_another_image_in_its_place_is_not_shown(tmp_path):
    output = write(tmp_path / "a", {"00000": [row(0), row(1)]}, images=True)
    write(tmp_path / "b", {"00000": [row(1)]}, images=True)
    shutil.copy(tmp_path / "b" / "in" / "00000.tar", tmp_path / "a" / "in" / "00000.tar")
    found = read_pictures(JoinedOutput.open(output), {"00000": {1}})
    assert not found.found
    assert "00000" in found.problems


def test_moved_inputs_are_found_with_their_new_place(tmp_path):
    output = write(tmp_path, {"00000": [row(0)], "00001": [row(1)]}, images=True)
    (tmp_path / "in").rename(tmp_path / "moved")
    joined = JoinedOutput.open(output, [str(tmp_path / "moved" / "00000.tar")])
    found = read_pictures(joined, {"00000": {0}, "00001": {0}})
    assert {*found.found} == {Place("00000", 0)}
    assert found.problems == {"00001": f"it was {tmp_path}/in/00001.tar, and is not among --shards"}


def test_patterns_that_stand_for_nothing_are_refused(tmp_path):
    output = write(tmp_path, {"00000": [row(0)]})
    with pytest.raises(ConfigError, match="nowhere"):
        read_pictures(JoinedOutput.open(output, [str(tmp_path / "nowhere.tar")]), {"00000": {0}})


def test_a_loose_image_that_is_gone_is_named(tmp_path):
    folder = tmp_path / "photos"
    write_images(folder, ["a.png", "b.png"])
    run(tmp_path / "out", folder)
    (folder / "a.png").unlink()
    found = read_pictures(JoinedOutput.open(OutputFolder.at(tmp_path / "out")), {"00000": {0, 1}})
    assert [picture.problem == "a.png is gone" for picture in found.found.values()] == [True, False]
    assert found.problems == {"00000": f"a.png is gone; it was in {folder}"}
