import errno
import fcntl
import os
from pathlib import Path

import pytest

from recap_fast.errors import ConfigError, RecapError
from recap_fast.export.target import Target


@pytest.fixture
def target(tmp_path):
    return opened(tmp_path)


def opened(tmp_path, kind="txt", overwrite=False, **settings):
    made = Target(tmp_path / "there", kind, settings, overwrite)
    made.open()
    return made


def write(target, *names, shard="00000", version="1", content=b"x"):
    with target.draft(shard, version) as draft:
        for name in names:
            draft.file(name).write_bytes(content)
        draft.counts["samples"] += len(names)


def test_files_are_there_together_and_the_shard_is_done(target, tmp_path):
    write(target, "a.txt", "d/b.txt")
    assert (tmp_path / "there/d/b.txt").read_bytes() == b"x"
    assert opened(tmp_path).done("00000", "1").counts == {"samples": 2}
    assert target.done("00000", "2") is None
    assert target.done("00001", "1") is None


@pytest.mark.parametrize(
    "change",
    [lambda p: p.write_bytes(b"my own"), lambda p: os.utime(p, (1, 1)), os.unlink],
    ids=["content", "time", "gone"],
)
def test_a_shard_whose_file_was_changed_or_removed_is_not_done(target, tmp_path, change):
    write(target, "a.txt")
    change(tmp_path / "there/a.txt")
    assert target.done("00000", "1") is None
    if (tmp_path / "there/a.txt").exists():
        with pytest.raises(
            ConfigError, match=r"a\.txt is there already, and it was changed since this export wrote it"
        ):
            write(target, "a.txt")


def test_no_file_is_there_if_the_writing_fails(target, tmp_path):
    with pytest.raises(TypeError):
        write(target, "a.txt", content=None)
    assert [path.name for path in (tmp_path / "there").iterdir()] == [".recap-fast"]


def test_a_file_of_others_is_left_alone_unless_it_may_be_overwritten(target, tmp_path):
    (tmp_path / "there/a.txt").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"a\.txt is there already, and this export did not write it"):
        write(target, "a.txt")
    assert (tmp_path / "there/a.txt").read_bytes() == b"mine"
    write(opened(tmp_path, overwrite=True), "a.txt")
    assert (tmp_path / "there/a.txt").read_bytes() == b"x"


def test_a_file_that_appears_meanwhile_stays(target, tmp_path):
    def write_slowly():
        with target.draft("00000", "1") as draft:
            draft.file("a.txt").write_bytes(b"x")
            draft.file("b.txt").write_bytes(b"x")
            (tmp_path / "there/b.txt").write_bytes(b"mine")

    with pytest.raises(ConfigError, match="this export did not write it"):
        write_slowly()
    assert {path.name: path.read_bytes() for path in (tmp_path / "there").glob("*.txt")} == {"b.txt": b"mine"}
    assert target.record("00000") is None


def test_a_file_of_another_shard_is_one_of_others(target):
    write(target, "a.txt")
    with pytest.raises(ConfigError, match="did not write it"):
        write(target, "a.txt", shard="00001")


def test_another_version_takes_the_place_of_our_files_and_removes_those_it_lacks(target, tmp_path):
    write(target, "a.txt", "b.txt", "c.txt")
    (tmp_path / "there/c.txt").write_bytes(b"mine now")
    write(target, "a.txt", version="2", content=b"yy")
    files = {path.name: path.read_bytes() for path in (tmp_path / "there").glob("*.txt")}
    assert files == {"a.txt": b"yy", "c.txt": b"mine now"}


@pytest.mark.parametrize("num_files", [1, 100])
@pytest.mark.parametrize("version", ["1", "2"])
def test_killed_at_any_step_it_goes_on(target, tmp_path, monkeypatch, num_files, version):
    names = [f"{number}.txt" for number in range(num_files)]
    write(target, *names)
    calls = []

    def killed(self, path):
        calls.append(path)
        raise KeyboardInterrupt

    for number in range(2):
        with monkeypatch.context() as patched:
            patched.setattr("pathlib.Path.replace", killed)
            with pytest.raises(KeyboardInterrupt):
                write(target, *names, version=version, content=b"yy" * number)
    assert len(calls) == 2
    write(opened(tmp_path), *names, version=version, content=b"zzz")
    assert {path.read_bytes() for path in (tmp_path / "there").glob("*.txt")} == {b"zzz"}
    assert target.done("00000", version)


@pytest.mark.parametrize("num_files", [2, 100])
@pytest.mark.parametrize("method", ["replace", "unlink"])
def test_killed_again_and_again_behind_the_record_it_goes_on(tmp_path, monkeypatch, num_files, method):
    target, names = opened(tmp_path), [f"{number}.txt" for number in range(num_files)]
    write(target, *names, "old.txt")
    change, dies_at = getattr(Path, method), {"replace": "1.txt", "unlink": "old.txt"}[method]

    def killed(self, *given, **more):
        if dies_at in (self.name, *(path.name for path in given)):
            raise KeyboardInterrupt
        return change(self, *given, **more)

    for number in range(2, 5):
        with monkeypatch.context() as patched:
            patched.setattr(Path, method, killed)
            with pytest.raises(KeyboardInterrupt):
                write(opened(tmp_path), *names, version="2", content=b"y" * number)
        assert target.done("00000", "2") is None
    write(opened(tmp_path), *names, version="2", content=b"z")
    assert {path.name: path.read_bytes() for path in (tmp_path / "there").glob("*.txt")} == dict.fromkeys(names, b"z")
    assert target.done("00000", "2")


def test_other_settings_are_named_and_need_a_word_to_overwrite(target, tmp_path):
    write(opened(tmp_path, skip=["loop"]), "a.txt")
    with pytest.raises(ConfigError, match=r"other settings[^\n]*\n  skip: \['loop'\] there, None now\nGive another"):
        opened(tmp_path)
    opened(tmp_path, kind="jsonl")
    write(opened(tmp_path, overwrite=True), "a.txt")


@pytest.mark.parametrize("name", ["../a", "/a", "d//a", "d/./a", "a\0b", ".recap-fast/x", ""])
def test_names_that_lead_out_of_the_target(target, name):
    with pytest.raises(RecapError, match="is not a name for a file below --target"):
        write(target, name)


def test_nothing_is_written_through_a_symbolic_link(target, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "there/d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecapError, match="is a symbolic link, and nothing is written through it"):
        write(target, "d/a.txt")
    (tmp_path / "elsewhere/mine").write_bytes(b"mine")
    (tmp_path / "there/b.txt").symlink_to(tmp_path / "elsewhere/mine")
    with pytest.raises(ConfigError, match="did not write it"):
        write(target, "b.txt")
    write(opened(tmp_path, overwrite=True), "b.txt")
    assert (tmp_path / "elsewhere/mine").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "part", [".recap-fast", ".recap-fast/txt", ".recap-fast/txt/shards", ".recap-fast/txt/shards/d"]
)
def test_no_record_is_written_through_a_symbolic_link(tmp_path, part):
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "there" / part
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecapError, match="is a symbolic link, and nothing is written through it"):
        write(opened(tmp_path), "a.txt", shard="d/00000")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_lock_is_not_taken_through_a_symbolic_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/.recap-fast").symlink_to(tmp_path)
    with pytest.raises(RecapError, match="is a symbolic link"), Target(tmp_path / "there", "txt", {}).locked():
        pass
    assert not (tmp_path / "lock").exists()


def test_one_export_at_a_time(tmp_path):
    first, second = (Target(tmp_path / "there", kind, {}) for kind in ("txt", "jsonl"))
    message = r"another export is writing to .*there: wait until it ends"
    with first.locked(), pytest.raises(RecapError, match=message), second.locked():
        pass
    with second.locked():
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Target(tmp_path / "there", "txt", {}).locked():
        assert (tmp_path / "there").is_dir()


@pytest.mark.parametrize("link", ["none", "symbolic", "hard"])
def test_an_input_is_never_replaced(tmp_path, link):
    (tmp_path / "there").mkdir()
    given = path = tmp_path / "there/a.tar"
    path.write_bytes(b"input")
    if link != "none":
        given = tmp_path / "given.tar"
        given.symlink_to(path) if link == "symbolic" else given.hardlink_to(path)
    made = Target(tmp_path / "there", "txt", {}, overwrite=True, inputs=[given, tmp_path / "gone.tar"])
    with pytest.raises(ConfigError, match=r"a\.tar is an input of the run, and inputs are not replaced"):
        write(made, "a.tar", "b.tar")
    assert path.read_bytes() == b"input"
    assert not (tmp_path / "there/b.tar").exists()


@pytest.mark.parametrize("num_files", [1, 100])
def test_a_folder_is_never_replaced(tmp_path, num_files):
    (tmp_path / "there/7").mkdir(parents=True)
    with pytest.raises(ConfigError, match="7 is a folder, and a file belongs there: move it away"):
        write(opened(tmp_path, overwrite=True), *map(str, range(7, 7 + num_files)))
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == [".recap-fast", "7"]


def test_a_name_that_no_file_can_have(target, tmp_path):
    with pytest.raises(RecapError, match="is too long for the name of a file: 255 bytes are the most"):
        write(target, "a.txt", "\u00e9" * 126 + ".txt")
    assert not (tmp_path / "there/a.txt").exists()
    write(target, "\u00e9" * 125 + ".txt")


def test_two_samples_of_one_name(target):
    with pytest.raises(RecapError, match="would be written twice"):
        write(target, "a.txt", "a.txt")


def test_damaged_records_count_as_none(target, tmp_path):
    write(target, "a.txt")
    for path in (tmp_path / "there/.recap-fast").rglob("*.json"):
        path.write_bytes(b"{")
    assert target.record("00000") is None
    with pytest.raises(ConfigError, match="did not write it"):
        write(opened(tmp_path), "a.txt")
