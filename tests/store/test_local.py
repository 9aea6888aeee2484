"""A local folder as a store: what it has that a bucket has not. What holds for all stores: test_contract.py."""

import os
import shutil

import pytest
from support import guard

from recap_fast import atomic
from recap_fast.store.local import LocalStore


@pytest.fixture
def store(tmp_path):
    opened = LocalStore(tmp_path / "out")
    opened.make_root()
    return opened


def names(store):
    return [file.name for file in store.list()]


def test_its_scratch_folder_is_the_folder_itself(store):
    assert store.scratch == store.root
    assert store.address == str(store.root)
    assert store.shown("a/b.txt") == str(store.root / "a/b.txt")


@pytest.mark.parametrize("action", ["put", "create", "replace", "draft"])
def test_a_root_that_is_gone_is_not_made_again(action, store):
    store.put("a.txt", b"one")
    version = store.stat("a.txt").version
    actions = {
        "put": lambda: store.put("x/a.txt", b"one"),
        "create": lambda: store.create("x/a.txt", b"one"),
        "replace": lambda: store.replace("a.txt", b"one", version),
        "draft": lambda: store.draft("x/a.txt").__enter__(),
    }
    shutil.rmtree(store.root)
    with pytest.raises(FileNotFoundError):
        actions[action]()
    assert not store.root.exists()
    assert names(store) == []


def test_a_draft_lies_on_the_same_disk_and_is_published_by_renaming(store):
    with store.draft("data/a.parquet") as draft:
        draft.write_bytes(b"one")
        inode = draft.stat().st_ino
        assert draft.parent == store.root / "data"
        assert store.publish(draft, "data/a.parquet") == store.root / "data/a.parquet"
    assert (store.root / "data/a.parquet").stat().st_ino == inode


def test_what_is_local_is_not_copied(store):
    store.put("a.txt", b"one")
    with store.local("a.txt") as path:
        assert path == store.root / "a.txt"
    assert path.exists()


def test_a_folder_goes_with_its_last_file_and_the_root_stays(store):
    for name in ("x/y/a.txt", "x/b.txt"):
        store.put(name, b"one")
    store.delete(["x/y/a.txt"])
    assert sorted(path.name for path in store.root.rglob("*")) == ["b.txt", "x"]
    store.delete(["x/b.txt", "x"])
    assert list(store.root.iterdir()) == []


def test_drafts_of_dead_processes_are_removed_and_those_of_the_living_stay(store, monkeypatch):
    machine = atomic.owner().rpartition("~")[0]
    with store.draft("x/a.txt") as living, monkeypatch.context() as patch:
        living.touch()
        patch.setattr(atomic, "owner", lambda: f"{machine}~999999999")
        dead = atomic.temporary_path(living)
        dead.touch()
        assert names(store) == []
        store.make_root()
        assert living.exists()
        assert not dead.exists()


def test_what_is_no_file_is_none(store):
    os.mkfifo(store.root / "pipe")
    (store.root / "folder").mkdir()
    (store.root / "nowhere").symlink_to("none")
    assert store.stat("pipe") is store.stat("folder") is store.stat("nowhere") is None
    assert names(store) == []
    for name in ("pipe", "folder"):
        with pytest.raises(ValueError, match="not a regular file"):
            store.read(name, 10)
        assert not store.create(name, b"")


def test_a_file_where_the_root_belongs(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(NotADirectoryError, match="move it elsewhere"):
        LocalStore(tmp_path / "out").make_root()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_one_of_many_processes_creates_and_replaces(store):
    store.put("b.txt", b"start")
    version = store.stat("b.txt").version

    def race(number):
        if store.create("a.txt", b"%d" % number):
            store.put(f"created/{number}", b"")
        if store.replace("b.txt", b"%d" % number, version):
            store.put(f"replaced/{number}", b"")

    guard.in_processes(*(lambda number=number: race(number) for number in range(6)))
    created, replaced = store.read("a.txt", 10)[0].decode(), store.read("b.txt", 10)[0].decode()
    assert names(store) == ["a.txt", "b.txt", f"created/{created}", f"replaced/{replaced}"]
