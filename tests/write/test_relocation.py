import json
import os
import shutil

import fsspec
import pytest
from support import folder_runs
from support.folder_runs import want, write_images
from support.shard_files import webdataset_members, write_tar
from support.verdicts import faults_of

from recap_fast.api import verify
from recap_fast.errors import ConfigError
from recap_fast.write.opening import find_output
from recap_fast.write.output_folder import OutputFolder

KINDS = pytest.mark.parametrize("kind", ["images", "tars", "both"])
NUM = {"images": 3, "tars": 4, "both": 7}


def make(folder, kind, first=0):
    """Three images, or two tars of two; of one size and, by name, one time, whatever `first` is."""
    if kind != "tars":
        write_images(folder, ["a.jpg", "b.jpg", "s/c.jpg"], first)
    for number in range(2 if kind != "images" else 0):
        write_tar(folder / f"{number}.tar", webdataset_members(2, first + 10 + 2 * number))
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        os.utime(path, (number, number))
    return folder


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def old(tmp_path):
    return tmp_path / "old"


@pytest.fixture
def new(tmp_path):
    return tmp_path / "new"


def root(output):
    return json.loads((output / "local.json").read_text())["root"]


def decoded(output, *patterns, **wishes):
    return len(folder_runs.run(output, *patterns, **wishes))


def check_moved(output, new, kind):
    """Nothing is done again, the run file has the new addresses, and `verify` proves before it has."""
    assert not verify(output, new).faults
    assert decoded(output, new) == 0
    assert root(output) == str(new)
    assert not verify(output, new).faults
    assert len(list((output / "data").rglob("*.parquet"))) == {"images": 1, "tars": 2, "both": 3}[kind]


@KINDS
class TestByItself:
    def test_that_a_folder_moved_is_gone_on_with(self, output, old, new, kind):
        assert decoded(output, make(old, kind)) == NUM[kind]
        old.rename(new)
        check_moved(output, new, kind)

    def test_that_a_copy_with_its_times_is_once_the_first_is_gone(self, output, old, new, kind):
        decoded(output, make(old, kind))
        shutil.copytree(old, new)
        shutil.rmtree(old)
        check_moved(output, new, kind)

    def test_that_a_link_is_and_then_the_folder_again(self, output, old, new, kind):
        decoded(output, make(old, kind))
        new.symlink_to(old)
        check_moved(output, new, kind)
        check_moved(output, old, kind)

    def test_that_links_to_the_files_are(self, output, old, new, kind):
        """As a bind mount has them: the same files by another path."""
        decoded(output, make(old, kind))
        shutil.copytree(old, new, copy_function=os.link)
        check_moved(output, new, kind)

    def test_that_folders_with_a_sibling_added_later_are(self, output, old, new, kind):
        decoded(output, make(old / "p", kind))
        decoded(output, make(old / "q", kind, first=100))
        old.rename(new)
        assert decoded(output, new / "p", new / "q") == decoded(output, new) == 0
        assert not faults_of(output, new)

    @pytest.mark.parametrize("first", [0, 1])
    def test_that_a_folder_above_is_and_a_part(self, output, old, new, kind, first):
        decoded(output, make(old, kind))
        old.rename(new)
        for each in ([new.parent, new / "s"], [new / "s", new])[first]:
            if kind != "tars" or each != new / "s":
                assert decoded(output, each) == 0
                assert not faults_of(output, each)

    def test_that_images_which_came_since_are_added(self, output, old, new, kind):
        decoded(output, make(old, kind))
        old.rename(new)
        write_images(new, ["0.jpg", "s/d.jpg"], 50)
        assert decoded(output, new) == 2
        assert not verify(output, new).faults

    def test_that_an_interrupted_run_goes_on(self, output, old, new, kind):
        decoded(output, make(old, kind), limit=1)
        old.rename(new)
        assert decoded(output, new) == NUM[kind] - 1
        assert not verify(output, new).faults

    def test_that_other_inputs_of_the_same_names_are_not_taken_for_those_of_an_interrupted_run(
        self, output, old, new, kind
    ):
        decoded(output, make(old, kind), limit=1)
        shutil.rmtree(old)
        make(new, kind, first=100)
        for number, path in enumerate(path for path in new.rglob("*") if path.is_file()):
            os.utime(path, (100 + number, 100 + number))
        assert decoded(output, new) == NUM[kind]
        assert not verify(output, new).faults


@KINDS
class TestAdded:
    def test_that_a_sibling_of_equal_names_sizes_and_times_is(self, output, old, new, kind):
        decoded(output, make(old, kind))
        make(new, kind, first=100)
        assert decoded(output, new) == NUM[kind]
        assert root(output) == str(old)
        assert decoded(output, old, new) == decoded(output, old.parent) == 0
        assert not verify(output, [old, new]).faults

    def test_that_a_sibling_is_where_only_some_of_the_first_are_left(self, output, old, new, kind):
        decoded(output, make(old, kind))
        next(path for path in sorted(old.rglob("*")) if path.is_file()).unlink()
        assert decoded(output, make(new, kind, first=100)) == NUM[kind]

    def test_that_a_folder_above_is(self, output, old, new, kind):
        decoded(output, make(old / "x", kind))
        make(old, kind, first=100)
        assert decoded(output, old) == NUM[kind]
        assert not verify(output, old).faults
        assert decoded(output, old / "x") == 0
        assert not verify(output, old / "x").faults

    def test_that_both_at_once_are(self, output, old, new, kind):
        decoded(output, make(old, kind))
        make(new, kind, first=100)
        assert decoded(output, old, new) == NUM[kind]


def test_that_few_equal_names_are_no_move_once_the_first_are_gone(output, old, new):
    """Nor are they refused, unlike most."""
    decoded(output, make(old, "images"))
    shutil.rmtree(old)
    write_images(new, ["x/a.jpg", "x/1.jpg", "x/2.jpg"], 50)
    assert decoded(output, new) == 3
    assert root(output) == str(old)


@KINDS
class TestRefused:
    def test_that_other_versions_are_where_the_first_are_gone(self, output, old, new, kind):
        decoded(output, make(old, kind))
        shutil.rmtree(old)
        make(new, kind, first=100)
        for path in new.rglob("*"):
            os.utime(path, (999, 999))
        change = r"has (another time|\d+ bytes, and had \d+)\. If they were moved"
        match = (
            f"which are gone, but other sizes or times: {new}.* {change}, give --relocate {old}={new}; otherwise give"
        )
        for use in (lambda: decoded(output, new), lambda: verify(output, new)):
            with pytest.raises(ConfigError, match=match):
                use()
        assert root(output) == str(old)

    def test_that_a_copy_without_its_times_is_until_it_is_relocated(self, output, old, new, kind):
        decoded(output, make(old, kind))
        shutil.copytree(old, new, copy_function=shutil.copyfile)
        shutil.rmtree(old)
        with pytest.raises(ConfigError, match="--relocate"):
            decoded(output, new)
        move = (str(old), str(new))
        assert not verify(output, new, relocate=["=".join(move)]).faults
        assert decoded(output, new, relocate=[move]) == 0
        assert decoded(output, new, relocate=[move]) == 0
        assert not verify(output, new).faults
        assert not verify(output, new, relocate=["=".join(move)]).faults
        assert decoded(output, new, redo_changed=True) == NUM[kind]


class TestRelocate:
    def test_that_one_of_several_folders_is_moved(self, output, tmp_path):
        for number, name in enumerate("xyz"):
            make(tmp_path / name, "both", first=100 * number)
        decoded(output, *(tmp_path / name for name in "xyz"))
        (tmp_path / "y").rename(tmp_path / "w")
        inputs = [tmp_path / name for name in "xwz"]
        move = (str(tmp_path / "y"), str(tmp_path / "w"))
        assert decoded(output, *inputs, relocate=[move]) == 0
        assert not verify(output, inputs).faults
        assert len(rows := folder_runs.read_rows(output)) == 21
        assert {row["file_name"].split("/")[0] for row in rows if row["file_name"] and row["shard"].endswith("00000")}

    def test_that_a_folder_where_no_input_lay_is_refused(self, output, old, new):
        decoded(output, make(old, "both"))
        with pytest.raises(ConfigError, match="no input of this output folder lay in /nowhere"):
            decoded(output, old, relocate=[("/nowhere", str(new))])

    def test_that_dry_runs_move_nothing(self, output, old, new):
        decoded(output, make(old, "both"))
        old.rename(new)
        before = (output / "run.json").read_bytes()
        assert len(find_output(OutputFolder.at(output), want(new))[0]) == 3
        assert (output / "run.json").read_bytes() == before


@pytest.fixture
def memory(tmp_path):
    """Makes inputs in memory, as in an object store: each object has its time of creation."""
    system = fsspec.filesystem("memory")
    shutil.rmtree(tmp_path / "local", ignore_errors=True)

    def put(name, kind, first=0):
        for path in make(tmp_path / f"local{first}", kind, first).rglob("*"):
            if path.is_file():
                system.pipe_file(f"/{name}/{path.relative_to(tmp_path / f'local{first}')}", path.read_bytes())
        return f"memory://{name}"

    yield put
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@KINDS
class TestRemote:
    def test_that_a_sibling_of_equal_names_and_sizes_is_added(self, output, memory, kind):
        old, new = memory("b/old", kind), memory("b/new", kind, first=100)
        assert decoded(output, old) == decoded(output, new) == NUM[kind]
        assert decoded(output, old) == decoded(output, new) == decoded(output, old, new) == 0
        assert not verify(output, [old, new]).faults

    def test_that_other_versions_are_refused_where_the_first_are_gone_until_they_are_relocated(
        self, output, memory, kind
    ):
        old, new = memory("b/old", kind), memory("c/new", kind)
        decoded(output, old)
        fsspec.filesystem("memory").rm("/b/old", recursive=True)
        with pytest.raises(ConfigError, match=f"--relocate {old}={new}"):
            decoded(output, new)
        assert decoded(output, new, relocate=[(old, new)]) == 0
        assert not verify(output, new).faults

    def test_that_a_local_copy_is_gone_on_with_by_relocate(self, output, memory, tmp_path, kind):
        old = memory("b/old", kind)
        decoded(output, old)
        fsspec.filesystem("memory").rm("/b/old", recursive=True)
        new = tmp_path / "local0"
        with pytest.raises(ConfigError, match="--relocate"):
            decoded(output, new)
        assert decoded(output, new, relocate=[(old, str(new))]) == 0
        assert not verify(output, new).faults


@KINDS
def test_inputs_of_different_systems(output, old, new, memory, kind):
    """They have no common parent: only --relocate moves them."""
    remote = memory("b/r", kind, first=100)
    assert decoded(output, make(old, kind), remote) == 2 * NUM[kind]
    assert root(output) == ""
    assert decoded(output, remote, old) == decoded(output, old) == decoded(output, remote) == 0
    assert not verify(output, [old, remote]).faults
    old.rename(new)
    assert decoded(output, new, remote, relocate=[(str(old), str(new))]) == 0
    assert not verify(output, [new, remote]).faults
    names = [(row["shard"], row["file_name"], row["index"]) for row in folder_runs.read_rows(output)]
    assert len(set(names)) == len(names) == 2 * NUM[kind]
