"""An engine directory that is replaced is there at every instant, the old one or the new, whole, whatever dies when."""

import os
import shutil
from pathlib import Path

import pytest

from inputs import checkpoints
from recap_fast.build import engine_directory
from recap_fast.build.engine_directory import build_engine
from recap_fast.errors import ConfigError
from recap_fast.generate import replacement
from recap_fast.generate.prepared import PreparedEngine
from recap_fast.generate.spec import SPEC_FILE, EngineSpec

DONE, KILLED = 0, 7
CALLS = ("rename", "unlink", "rmdir", "fsync")
"""What a replacement is made of; a process may die before each of them."""


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    checkpoints.make_checkpoint(folder / "checkpoint")
    for name in ("recap_tiny", "llava"):
        build_engine(name, folder / "checkpoint", folder / name)
    return folder


@pytest.fixture(params=[True, False], ids=["exchange", "steps"])
def can_exchange(request, monkeypatch, tmp_path):
    """Whether the system exchanges two names at once."""
    if request.param:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        if not replacement.exchange(tmp_path / "a", tmp_path / "b"):
            pytest.skip("this file system exchanges no names")
        (tmp_path / "a").rmdir()
        (tmp_path / "b").rmdir()
    else:
        monkeypatch.setattr(replacement, "exchange", lambda one, other: False)
    return request.param


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def replace(source: Path, output: Path) -> None:
    with engine_directory._new_folder(output, overwrite=True) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def in_child(action, dies_at: int | None = None) -> int:
    """The exit status of a process of its own that does it, and dies before its call of this number."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        count = 0

        def counted(call):
            def wrapped(*args, **kwargs):
                nonlocal count
                count += 1
                if count == dies_at:
                    os._exit(KILLED)
                return call(*args, **kwargs)

            return wrapped

        replacement.exchange = counted(replacement.exchange)
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        action()
        os._exit(DONE)
    finally:
        os._exit(1)


def test_a_build_that_dies_at_any_step_leaves_an_engine(engines, tmp_path, can_exchange):
    old, new = content(engines / "recap_tiny"), content(engines / "llava")
    output, statuses, kept = tmp_path / "engine", [], []
    for step in range(1, 100):
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(engines / "recap_tiny", output)
        statuses.append(in_child(lambda: replace(engines / "llava", output), step))
        name = PreparedEngine.read(output).spec.name  # heals, where the old one was left aside
        kept.append(content(output))
        assert kept[-1] in (old, new)
        assert name == ("recap-tiny" if kept[-1] == old else "checkpoint")
        assert in_child(lambda: replace(engines / "llava", output)) == DONE
        assert content(output) == new
        assert [path.name for path in tmp_path.iterdir()] == ["engine"]
        if statuses[-1] == DONE:
            break
    assert statuses == [KILLED] * (len(statuses) - 1) + [DONE]
    assert len(statuses) > 8
    assert kept[0] == old
    assert kept[-2] == kept[-1] == new


def test_an_error_between_the_steps_gives_the_old_one_back(engines, tmp_path, monkeypatch):
    monkeypatch.setattr(replacement, "exchange", lambda one, other: False)
    output, rename = tmp_path / "engine", Path.rename
    shutil.copytree(engines / "recap_tiny", output)

    def refuse_second(self, target):
        if self.suffix == replacement.BUILDING:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_second)
    with pytest.raises(OSError, match="No space left"):
        replace(engines / "llava", output)
    assert content(output) == content(engines / "recap_tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_an_engine_that_another_process_replaces_right_now_is_not_touched(engines, tmp_path):
    aside = tmp_path / f".engine.elsewhere-1~1{replacement.REPLACED}"
    shutil.copytree(engines / "recap_tiny", aside)
    with pytest.raises(ConfigError, match=r"is being replaced: try again. If no build-engine runs, rename .* to"):
        EngineSpec.load(tmp_path / "engine")
    with pytest.raises(ConfigError, match="is being replaced"):
        build_engine("llava", engines / "checkpoint", tmp_path / "engine", overwrite=True)
    shutil.copytree(engines / "llava", tmp_path / "engine")
    assert EngineSpec.load(tmp_path / "engine").name == "checkpoint"
    assert aside.is_dir()


def test_what_stands_in_the_way_of_the_old_one_is_named(engines, tmp_path):
    shutil.copytree(engines / "recap_tiny", replacement.beside(tmp_path / "engine", replacement.REPLACED))
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"cannot take its name back \(Directory not empty\): move .*engine away"):
        EngineSpec.load(tmp_path / "engine")
    (tmp_path / "engine" / "notes.txt").unlink()
    assert EngineSpec.load(tmp_path / "engine").name == "recap-tiny"


def test_a_link_to_an_engine_leads_to_the_new_one(engines, tmp_path):
    shutil.copytree(engines / "recap_tiny", tmp_path / "v1")
    (tmp_path / "engine").symlink_to("v1")
    build_engine("llava", engines / "checkpoint", tmp_path / "engine", overwrite=True)
    assert (tmp_path / "engine").is_symlink()
    assert EngineSpec.load(tmp_path / "v1").name == EngineSpec.load(tmp_path / "engine").name == "checkpoint"
    assert {path.name for path in tmp_path.iterdir()} == {"v1", "engine"}
    assert (tmp_path / "v1" / SPEC_FILE).is_file()


def test_exchange_of_what_is_not_there_is_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        replacement.exchange(tmp_path / "a", tmp_path / "b")
