"""Rows that failed, and rows that lack what could not be read: which of them a run does again."""

import json
import os

import pytest
from support import folder_runs
from support.fake_runs import BAD
from support.folder_runs import image, read_rows, write_images
from support.verdicts import faults_of

from recap_fast.records import READ_AGAIN
from recap_fast.shards.folder import reader as folder

STATUSES = {
    "0.jpg": "ok",
    "1.jpg": "not_an_image",
    "2.jpg": "empty_image",
    "3.jpg": "too_large",
    "4.jpg": "not_an_image",
}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A good image, two that are none, an empty one and one that is too large."""
    monkeypatch.setattr(folder, "MAX_IMAGE_BYTES", 30)
    path = tmp_path / "photos"
    write_images(path, list(STATUSES))
    for number, content in {1: BAD, 2: b"", 3: b"x" * 31, 4: BAD}.items():
        (path / f"{number}.jpg").write_bytes(content)
    return path


@pytest.fixture
def output(tmp_path, photos):
    folder_runs.run(tmp_path / "out", photos)
    return tmp_path / "out"


def statuses(output):
    return {row["file_name"]: row["status"] for row in read_rows(output)}


def record(output):
    return json.loads((output / "manifests" / "00000.json").read_text())


def test_that_rows_say_what_failed(output, photos):
    assert statuses(output) == STATUSES
    assert not faults_of(output, photos)
    assert folder_runs.run(output, photos) == []


@pytest.mark.parametrize(
    ("retry", "num"),
    [
        (["not_an_image"], 2),
        (["empty_image"], 0),  # it is read again, and there is nothing to decode
        (["not_an_image", "too_large"], 2),
        (["all"], 2),
        (["corrupt"], 0),
    ],
)
def test_that_rows_of_the_given_statuses_are_done_again(output, photos, retry, num):
    assert folder_runs.run(output, photos, retry=retry) == [BAD] * num
    assert statuses(output) == STATUSES
    assert not faults_of(output, photos)


def test_that_only_their_rows_change(output, photos, monkeypatch):
    before = {row["file_name"]: row for row in read_rows(output)}
    for number in (1, 3):
        at = (photos / f"{number}.jpg").stat()
        (photos / f"{number}.jpg").write_bytes(image(number))
        os.utime(photos / f"{number}.jpg", ns=(at.st_atime_ns, at.st_mtime_ns))
    assert folder_runs.run(output, photos, retry=["too_large"]) == [image(3)]
    after = {row["file_name"]: row for row in read_rows(output)}
    assert {name for name, row in after.items() if row != before[name]} == {"3.jpg"}
    assert after["3.jpg"]["status"] == "ok"
    assert record(output)["failed"] == {"not_an_image": 2, "empty_image": 1}


class TestWhatCannotBeRead:
    """As if the disk had given EIO for some files."""

    @pytest.fixture
    def broken(self, monkeypatch):
        broken: set[str] = set()

        def read(url, path, limit):
            if path in broken:
                raise OSError(5, "Input/output error")
            return whole(url, path, limit)

        whole = folder._read
        monkeypatch.setattr(folder, "_read", read)
        return broken

    @pytest.mark.parametrize("suffix", [".txt", ".json"])
    def test_that_a_row_without_its_side_file_is_done_by_the_next_run(self, tmp_path, broken, suffix):
        photos, output = tmp_path / "photos", tmp_path / "out"
        write_images(photos, ["0.jpg", "1.jpg"])
        (photos / f"0{suffix}").write_text('{"caption": "alt"}')
        broken.add(f"0{suffix}")
        assert len(folder_runs.run(output, photos)) == 2
        first = read_rows(output)
        assert first[0]["status"] == "ok"
        assert READ_AGAIN in first[0]["warning"]
        assert record(output)["status"] == "truncated"
        assert folder_runs.run(output, photos) == [image(0)]
        broken.clear()
        assert folder_runs.run(output, photos) == [image(0)]
        assert read_rows(output)[0]["warning"] is None
        assert read_rows(output)[0]["org_caption"]
        assert read_rows(output)[1] == first[1]
        assert record(output)["status"] == "complete"
        assert folder_runs.run(output, photos) == []
        assert not faults_of(output, photos)

    def test_that_an_image_is_read_again_by_the_next_run(self, tmp_path, broken):
        photos, output = tmp_path / "photos", tmp_path / "out"
        write_images(photos, ["0.jpg", "1.jpg"])
        broken.add("0.jpg")
        assert folder_runs.run(output, photos) == [image(1)]
        assert [row["status"] for row in read_rows(output)] == ["unreadable", "ok"]
        assert "0.jpg cannot be read" in record(output)["error"]
        broken.clear()
        assert folder_runs.run(output, photos) == [image(0)]
        assert [row["status"] for row in read_rows(output)] == ["ok", "ok"]
        assert not faults_of(output, photos)

    def test_that_an_image_which_cannot_be_read_does_not_prove(self, tmp_path, broken):
        photos, output = tmp_path / "photos", tmp_path / "out"
        write_images(photos, ["0.jpg", "1.jpg"])
        folder_runs.run(output, photos)
        broken.add("1.jpg")
        (fault, *_) = faults_of(output, photos)
        assert "1.jpg" in fault[1]


@pytest.mark.parametrize("code", [36, 2, 20])
def test_that_a_side_file_that_cannot_be_there_is_none(tmp_path, monkeypatch, code):
    """A name too long for the suffix, and no file of that name."""

    def read(url, path, limit):
        if not path.endswith(".jpg"):
            raise OSError(code, os.strerror(code))
        return whole(url, path, limit)

    whole = folder._read
    monkeypatch.setattr(folder, "_read", read)
    write_images(tmp_path / "photos", ["0.jpg"])
    folder_runs.run(tmp_path / "out", tmp_path / "photos")
    assert record(tmp_path / "out")["status"] == "complete"
    assert read_rows(tmp_path / "out")[0]["warning"] is None
