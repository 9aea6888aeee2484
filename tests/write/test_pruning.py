import json
import shutil

import pytest
from support import folder_runs
from support.fake_runs import BAD
from support.folder_runs import BrokenError, image, rows_by_file, write_images
from support.verdicts import faults_of

from recap_fast.write import opening, units


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(units, "UNIT_IMAGES", 3)


@pytest.fixture
def photos(tmp_path):
    write_images(tmp_path / "photos", [f"{i}.jpg" for i in range(7)])
    return tmp_path / "photos"


@pytest.fixture
def output(tmp_path, photos):
    """A finished run: units of 3, 3 and 1 images."""
    folder_runs.run(tmp_path / "out", photos)
    return tmp_path / "out"


def delete(photos, names):
    for name in names:
        (photos / f"{name}.jpg").unlink()


def names(output):
    return "".join(sorted(path[-5] for path in rows_by_file(output)))


def record(output, name):
    return json.loads((output / "manifests" / f"{name}.json").read_text())


@pytest.mark.parametrize("gone", ["0", "02", "05", "012", "0126", "012345"])
def test_that_rows_of_images_that_are_gone_go_and_nothing_is_decoded(output, photos, gone):
    rows = rows_by_file(output)
    delete(photos, gone)
    assert folder_runs.run(output, photos) == []
    assert rows_by_file(output) == rows
    assert {kind for kind, _ in faults_of(output, photos)} == {"gone image"}
    assert folder_runs.run(output, photos, prune=True) == []
    assert rows_by_file(output) == {path: row for path, row in rows.items() if path[-5] not in gone}
    assert not faults_of(output)
    assert not faults_of(output, photos)


def test_that_records_of_pruned_units_fit(output, photos):
    before = record(output, "00000")
    delete(photos, "0")
    folder_runs.run(output, photos, prune=True)
    after = record(output, "00000")
    assert (after["rows"], after["captioned"], list(after["files"])) == (2, 2, ["1.jpg", "2.jpg"])
    assert 0 < after["num_tokens"] < before["num_tokens"]
    assert record(output, "00001") == {**record(output, "00001"), "rows": 3}


def test_that_an_image_that_comes_back_is_captioned_in_a_unit_of_its_own(output, photos):
    delete(photos, "1")
    folder_runs.run(output, photos, prune=True)
    write_images(photos, ["1.jpg"], 1)
    assert folder_runs.run(output, photos) == [image(1)]
    assert names(output) == "0123456"
    assert not faults_of(output, photos)


def test_that_an_image_that_comes_back_before_is_not(output, photos):
    delete(photos, "1")
    folder_runs.run(output, photos)
    write_images(photos, ["1.jpg"], 1)
    assert folder_runs.run(output, photos, prune=True) == []
    assert not faults_of(output, photos)


def test_that_changed_images_of_a_pruned_unit_are_redone_where_asked_for(output, photos):
    delete(photos, "0")
    write_images(photos, ["1.jpg"], 90)
    assert folder_runs.run(output, photos, prune=True) == []
    assert [kind for kind, _ in faults_of(output, photos)] == ["changed input"]
    assert folder_runs.run(output, photos, prune=True, redo_changed=True) == [image(90)]
    assert not faults_of(output, photos)
    delete(photos, "2")
    write_images(photos, ["1.jpg"], 91)
    assert folder_runs.run(output, photos, prune=True, redo_changed=True) == [image(91)]
    assert names(output) == "13456"
    assert not faults_of(output, photos)


def test_that_failed_rows_of_a_pruned_unit_stay_or_are_retried(tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_images(photos, ["0.jpg", "1.jpg", "2.jpg"])
    (photos / "1.jpg").write_bytes(BAD)
    folder_runs.run(output, photos)
    delete(photos, "0")
    assert folder_runs.run(output, photos, prune=True) == []
    assert record(output, "00000")["failed"] == {"not_an_image": 1}
    delete(photos, "2")
    assert folder_runs.run(output, photos, prune=True, retry=["all"]) == [BAD]
    assert record(output, "00000")["failed"] == {"not_an_image": 1}
    assert not faults_of(output, photos)


@pytest.mark.parametrize("gone", ["0", "012"])
def test_that_a_run_killed_after_it_wrote_the_unit_is_made_good_by_the_next(output, photos, gone):
    delete(photos, gone)
    opening.open_output(folder_runs.OutputFolder.at(output), folder_runs.want(photos, prune=True))
    assert "wrong rows" in [kind for kind, _ in faults_of(output)]
    assert folder_runs.run(output, photos) == []
    assert not faults_of(output)
    assert not faults_of(output, photos)


@pytest.mark.parametrize("part", [0, 1])
def test_that_each_process_of_an_array_removes_the_rows_of_its_units(output, photos, part):
    delete(photos, "013")
    for each in (part, 1 - part):
        assert folder_runs.run(output, photos, prune=True, part=(each, 2)) == []
    assert names(output) == "2456"
    assert not faults_of(output, photos)


def test_that_an_unfinished_unit_is_finished_without_them(tmp_path, photos):
    output = tmp_path / "new"
    with pytest.raises(BrokenError):
        folder_runs.run(output, photos, break_after=2)
    delete(photos, "0345")
    folder_runs.run(output, photos, prune=True)
    assert names(output) == "126"
    assert not faults_of(output, photos)


def test_that_a_unit_whose_images_went_before_they_were_captioned_is_done_without_rows(tmp_path, photos):
    output = tmp_path / "new"
    with pytest.raises(BrokenError):
        folder_runs.run(output, photos, break_after=0)
    delete(photos, "345")
    folder_runs.run(output, photos, prune=True)
    assert names(output) == "0126"
    assert not faults_of(output, photos)


def test_that_folders_outside_the_run_keep_their_rows(tmp_path):
    for number, name in enumerate("ab"):
        write_images(tmp_path / name, ["0.jpg", "1.jpg"], 10 * number)
    output = tmp_path / "out"
    folder_runs.run(output, tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    folder_runs.run(output, tmp_path / "b", prune=True)
    assert len(rows_by_file(output)) == 4
