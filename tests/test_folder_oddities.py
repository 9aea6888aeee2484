"""Folders with links that lead nowhere, pipes and outputs in them, and folders whose images are all gone."""

import json
import os

import pytest
from support import folder_runs
from support.folder_runs import image, write_images
from support.runs import read_rows
from support.shard_files import webdataset_members, write_tar
from support.verdicts import faults_of


@pytest.fixture
def photos(tmp_path):
    write_images(tmp_path / "photos", ["a.jpg", "b.jpg"])
    return tmp_path / "photos"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def statuses(output):
    return {row["file_name"]: row["status"] for row in read_rows(output)}


def test_that_a_link_that_leads_nowhere_has_a_row_until_the_link_is_gone(output, photos, caplog):
    (photos / "c.jpg").symlink_to("nowhere")
    for _ in range(2):  # however often: it makes no new unit
        folder_runs.run(output, photos, prune=True)
        assert statuses(output) == {"a.jpg": "ok", "b.jpg": "ok", "c.jpg": "missing_image"}
        assert list(folder_runs.units(output)) == ["00000.json"]
        assert not faults_of(output, photos)
    assert "missing" not in caplog.text
    (photos / "c.jpg").unlink()
    assert [kind for kind, _ in faults_of(output, photos)] == ["gone image"]
    folder_runs.run(output, photos, prune=True)
    assert statuses(output) == {"a.jpg": "ok", "b.jpg": "ok"}


def test_that_a_link_mended_is_captioned_when_it_is_asked_for(output, photos):
    (photos / "c.jpg").symlink_to("d.txt")
    folder_runs.run(output, photos)
    (photos / "d.txt").write_bytes(image(5))
    assert [kind for kind, _ in faults_of(output, photos)] == ["changed input"]
    assert folder_runs.run(output, photos, redo_changed=True) == [image(5)]
    assert not faults_of(output, photos)


def test_that_what_cannot_be_read_has_a_row_and_each_run_tries_again(output, photos):
    path = photos / "c.jpg"
    path.symlink_to("c.jpg")
    for _ in range(2):
        folder_runs.run(output, photos)
        assert statuses(output) == {"a.jpg": "ok", "b.jpg": "ok", "c.jpg": "unreadable"}
        assert not faults_of(output, photos)
    path.unlink()
    path.write_bytes(image(5))
    assert folder_runs.run(output, photos) == [image(5)]
    assert not faults_of(output, photos)


def test_that_a_pipe_has_a_row_and_is_not_tried_again(output, photos):
    os.mkfifo(photos / "c.jpg")
    folder_runs.run(output, photos)
    assert statuses(output) == {"a.jpg": "ok", "b.jpg": "ok", "c.jpg": "not_an_image"}
    assert json.loads((output / "manifests/00000.json").read_text())["status"] == "complete"
    assert not faults_of(output, photos)
    (photos / "c.jpg").unlink()
    (photos / "c.jpg").write_bytes(image(5))
    assert folder_runs.run(output, photos, redo_changed=True) == [image(5)]
    assert not faults_of(output, photos)


def test_that_a_folder_and_a_link_to_it_are_one(output, photos):
    (photos.parent / "link").symlink_to(photos)
    both = photos, photos.parent / "link"
    assert len(folder_runs.run(output, *both)) == 2
    for given in (both, both[:1], both[1:], both):
        assert folder_runs.run(output, *given) == []
        assert not faults_of(output, *given)


def test_that_an_output_among_the_images_is_no_input(photos):
    output = photos / "captions"
    folder_runs.run(output, photos)
    assert folder_runs.run(output, photos) == []
    assert not faults_of(output, photos)


def test_that_images_are_gone_from_a_folder_with_only_tars_left(output, photos):
    write_tar(photos / "x.tar", webdataset_members(2))
    folder_runs.run(output, photos)
    for path in photos.glob("*.jpg"):
        path.unlink()
    assert [kind for kind, _ in faults_of(output, photos)] == ["gone image"]
    assert folder_runs.run(output, photos, prune=True) == []
    assert [row["shard"] for row in read_rows(output)] == ["x", "x"]
    assert not faults_of(output, photos)


def test_that_names_in_any_case_of_letters_are_different(output, photos):
    write_images(photos, ["IMG.JPG", "img.jpg", "Img.jpg"], 10)
    folder_runs.run(output, photos)
    assert len(folder_runs.rows_by_file(output)) == 5
    assert not faults_of(output, photos)
