import shutil

import pytest
from support.fake_runs import FakeRun, write_shards
from support.guard import guarded

from recap_fast.errors import OutputGoneError
from recap_fast.write import shard_writer
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.output_watch import OutputWatch
from recap_fast.write.run_file import RunFile, find_versions, write_run_file


def make(root, engine="tiny", inputs="/in"):
    root.mkdir(exist_ok=True)
    output = OutputFolder.at(root)
    assert write_run_file(output, RunFile({"engine": engine}, inputs, {"a": f"{inputs}/a.tar"}), find_versions(output))


@pytest.fixture
def root(tmp_path):
    make(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def watch(root):
    return OutputWatch(OutputFolder.at(root))


def rewrite(root):
    make(root, inputs="/in")
    (root / "data").mkdir()


def move_and_copy(root):
    """As a network file system that numbers its folders anew."""
    root.rename(root.with_name("before"))
    shutil.copytree(root.with_name("before"), root)


@pytest.mark.parametrize("happening", [lambda root: None, rewrite, move_and_copy])
def test_a_folder_that_is_there_is_no_news(root, watch, happening):
    happening(root)
    watch.check()
    watch.check()


def delete(root):
    """At once: a run may be writing to it."""
    gone = root.with_name("gone")
    root.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def unmount(root):
    delete(root)
    root.mkdir()


def replace(root, **given):
    delete(root)
    root.with_name("something else").mkdir()  # that takes the number of the folder that is gone
    make(root, **given)


def make_a_file(root):
    delete(root)
    root.write_text("x")


GONE = {
    "deleted": (delete, "no longer has run.json"),
    "moved": (lambda root: root.rename(root.with_name("moved")), "no longer has run.json"),
    "without its run file": (lambda root: (root / "run.json").unlink(), "no longer has run.json"),
    "unmounted": (unmount, "no longer has run.json"),
    "a file": (make_a_file, "no longer has run.json"),
    "of another engine": (lambda root: replace(root, engine="big"), "is now another folder, with another run"),
    "of other inputs": (lambda root: replace(root, inputs="/other"), "is now another folder, with another run"),
}


@pytest.mark.parametrize("happening", GONE)
def test_a_folder_that_is_gone_or_another_one_is_an_error(root, watch, happening):
    happen, sentence = GONE[happening]
    happen(root)
    for _ in range(2):
        with pytest.raises(
            OutputGoneError, match=f"--output {root} {sentence}.*: it was removed, replaced or unmounted"
        ):
            watch.check()


@pytest.mark.parametrize("stretch_rows", [5, 800], ids=["at a stretch", "at the end of a shard"])
@pytest.mark.parametrize("happening", ["deleted", "unmounted", "without its run file"])
def test_a_run_whose_output_folder_goes_ends_with_an_error_and_does_not_make_it_again(
    tmp_path, monkeypatch, stretch_rows, happening
):
    monkeypatch.setattr(shard_writer, "STRETCH_ROWS", stretch_rows)
    root = tmp_path / "out"
    write_shards(tmp_path / "in", [30, 30, 30])
    run = FakeRun(tmp_path / "in", root, window=16)
    step = run.engine.step

    def step_without_output(**told):
        if run.engine.completed >= 40 and not happened:
            happened.append(GONE[happening][0](root))
        return step(**told)

    happened, run.engine.step = [], step_without_output
    with pytest.raises(OutputGoneError, match=r"no longer has run\.json"):
        guarded(run.run)
    assert happened
    assert root.exists() == (happening != "deleted")
    assert not list(root.rglob("00002.parquet"))
