import os
import time

import pytest
from support.guard import in_processes

from recap_fast import atomic


def test_atomic_write_makes_folders_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    atomic.atomic_write(path, b"one")
    atomic.atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    atomic.atomic_write(path, b"old")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        atomic.atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_folder_in_the_place_of_a_file_is_moved_out_of_the_way(tmp_path, caplog):
    path = tmp_path / "file.json"
    (path / "deep").mkdir(parents=True)
    atomic.atomic_write(path, b"new")
    (moved,) = tmp_path.glob("file.json.moved-*")
    assert path.read_bytes() == b"new"
    assert [p.name for p in moved.iterdir()] == ["deep"]
    assert f"{path} is a folder where a file belongs: it is now {moved.name}" in caplog.text


def test_a_folder_that_must_be_there_is_not_made(tmp_path):
    root = tmp_path / "out"
    for path in (root / "file", root / "a" / "b" / "file"):
        with pytest.raises(FileNotFoundError):
            atomic.atomic_write(path, b"one", within=root)
    assert not root.exists()
    root.mkdir()
    atomic.atomic_write(root / "a" / "b" / "file", b"one", within=root)
    assert (root / "a" / "b" / "file").read_bytes() == b"one"


def test_temporary_names_are_never_given_twice(tmp_path):
    names = {atomic.temporary_path(tmp_path / "x").name for _ in range(1000)}
    assert len(names) == 1000
    assert all(atomic.is_temporary(name) for name in names)
    assert not atomic.is_temporary("00000.parquet")


def test_leftovers_of_dead_processes_go_and_those_of_live_ones_stay(tmp_path):
    def leave():
        path = atomic.temporary_path(tmp_path / "data" / "x")
        path.write_bytes(b"half")
        return path

    in_processes(leave)
    (dead,) = (tmp_path / "data").iterdir()
    mine, kept = leave(), tmp_path / "data" / "x.parquet"
    kept.write_bytes(b"whole")
    assert atomic.remove_leftovers(tmp_path) == 1
    assert not dead.exists()
    assert mine.exists()
    assert kept.exists()


def test_leftovers_of_other_machines_go_after_a_day(tmp_path):
    fresh, old = tmp_path / ".other-1~12~ab00000000.tmp", tmp_path / ".other-1~12~ab00000001.tmp"
    for path in (fresh, old):
        path.write_bytes(b"")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    assert atomic.remove_leftovers(tmp_path) == 1
    assert fresh.exists()


def test_an_error_that_names_no_file_gets_the_name(tmp_path, monkeypatch):
    def no_space(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", no_space)
    with pytest.raises(OSError, match=r"No space left on device: .*record\.json"):
        atomic.atomic_write(tmp_path / "record.json", b"new")


@pytest.mark.parametrize("given", [True, False])
def test_a_file_in_the_place_of_a_folder_says_what_to_do(tmp_path, given):
    (tmp_path / "data").write_text("x")
    with pytest.raises(OSError, match=r"there is a file where a folder belongs, move it elsewhere: '.*data'"):
        atomic.make_folder(tmp_path / "data", tmp_path if given else None)
