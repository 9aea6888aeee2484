import json
import threading
from typing import ClassVar

import pytest
from support import folder_runs
from support.fake_runs import break_off
from support.folder_runs import SETTINGS, BrokenError, image, rows_by_file, want, write_images
from support.shard_files import webdataset_members, write_tar

from recap_fast.api import verify
from recap_fast.errors import ConfigError
from recap_fast.records import ACCEPTABLE
from recap_fast.write import opening, units
from recap_fast.write.ledger import Ledger
from recap_fast.write.opening import find_output, open_output
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import read_run
from recap_fast.write.shard_writer import read_made_with


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(units, "UNIT_IMAGES", 3)


@pytest.fixture
def photos(tmp_path):
    write_images(tmp_path / "photos", [f"{i}.jpg" for i in range(5)])
    return tmp_path / "photos"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_file(output):
    return json.loads((output / "run.json").read_text())


class KilledError(Exception):
    """As if the process had died."""


@pytest.mark.parametrize(("function", "at"), [("write_units", 1), ("write_run_file", 1), ("write_run_file", 2)])
def test_that_a_process_killed_while_it_opens_leaves_a_folder_that_can_be_opened(
    output, photos, monkeypatch, function, at
):
    calls = []

    def die(*arguments):
        calls.append(arguments)
        if len(calls) == at:
            raise KilledError
        return whole(*arguments)

    whole = getattr(opening, function)
    with monkeypatch.context() as patch:
        patch.setattr(opening, function, die)
        with pytest.raises(KilledError):
            open_output(OutputFolder.at(output), want(photos))
    folder_runs.run(output, photos)
    assert len(rows_by_file(output)) == 5
    assert not verify(output, photos).faults


def test_that_nothing_of_a_run_killed_while_it_opens_binds_the_next(output, photos, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(opening, "write_units", break_off)
        with pytest.raises(RuntimeError):
            open_output(OutputFolder.at(output), want(photos))
    moved = photos.rename(photos.parent / "moved")
    folder_runs.run(output, moved, settings={**SETTINGS, "prompt": "Who?"})
    assert read_run(OutputFolder.at(output)).root == str(moved)
    assert not verify(output, moved).faults


def test_that_what_could_not_begin_is_forgotten(output, photos):
    ledger = Ledger(OutputFolder.at(output), want(photos)).open()
    assert (output / "units").exists()
    ledger.forget_unused()
    assert content(output) == {}
    assert len(folder_runs.run(output, photos, settings={**SETTINGS, "prompt": "Who?"})) == 5


def test_that_a_run_which_has_rows_is_not_forgotten(output, photos):
    folder_runs.run(output, photos)
    before = content(output)
    Ledger(OutputFolder.at(output), want(photos)).open().forget_unused()
    assert content(output) == before


def test_that_dry_runs_write_nothing_and_find_what_runs_then_open(output, photos):
    shards, is_fresh = find_output(OutputFolder.at(output), want(photos))
    assert is_fresh
    assert not output.exists()
    assert open_output(OutputFolder.at(output), want(photos)) == shards
    before = content(output)
    write_images(photos, ["00.jpg"], 5)
    shards, is_fresh = find_output(OutputFolder.at(output), want(photos))
    assert not is_fresh
    assert content(output) == before
    assert open_output(OutputFolder.at(output), want(photos)) == shards


@pytest.mark.parametrize("names", [["a.jpg"], ["units"], ["data", "run.txt"]])
def test_that_a_folder_with_other_files_is_refused_and_stays(output, photos, names):
    for name in names:
        (output / name).mkdir(parents=True)
        (output / name / "x").touch()
    with pytest.raises(ConfigError, match="is not empty and no run made it"):
        open_output(OutputFolder.at(output), want(photos, overwrite="any"))
    assert sorted(path.name for path in output.iterdir()) == names


class TestUnitsThatCannotBeRead:
    @pytest.mark.parametrize("damage", ["gone", "", "{}", '{"format": 9}', "[" * 100_000, "null", "folder"])
    def test_that_they_are_refused_by_name(self, output, photos, damage):
        folder_runs.run(output, photos)
        (path,) = output.glob("units/00001.*.json")
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage != "gone":
            path.write_text(damage)
        for use in (lambda: folder_runs.run(output, photos), lambda: verify(output), lambda: verify(output, photos)):
            with pytest.raises(ConfigError, match=r"units/00001\.\w+\.json cannot be read .* unit 00001"):
                use()


def rewritten(path, change):
    """Has `change` work on the content of a json file."""
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("units/00001.*.json", lambda unit: unit["files"].append(unit["files"][0])),
        ("units/00000.*.json", lambda unit: unit["files"].append("4.jpg")),
        ("run.json", lambda run: run["shards"].update(b="/in/a.tar", a="/in/a.tar")),
    ],
)
def test_that_no_image_is_there_twice_by_what_is_recorded(output, photos, file, change):
    folder_runs.run(output, photos)
    rewritten(next(output.glob(file)), change)
    for use in (lambda: folder_runs.run(output, photos), lambda: verify(output), lambda: verify(output, photos)):
        with pytest.raises(ConfigError, match=r"twice. Put both back from a copy, or give another --output"):
            use()


def test_that_nothing_is_proven_of_a_unit_that_the_run_file_has_lost(output, photos):
    folder_runs.run(output, photos)
    rewritten(output / "run.json", lambda run: run["units"].pop("00000"))
    for inputs in ([], photos):
        with pytest.raises(ConfigError, match=r"00000 is a unit of images in its done-record, but not in .*run\.json"):
            verify(output, inputs)


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/./b", "a//b", "", ".."])
def test_that_no_name_of_a_shard_leads_out_of_the_folder(output, photos, name):
    folder_runs.run(output, photos)
    rewritten(output / "run.json", lambda run: run["shards"].update({name: "/in/a.tar"}))
    for use in (lambda: folder_runs.run(output, photos), lambda: verify(output)):
        with pytest.raises(ConfigError, match=r"is not a shard.s name.*put back the file"):
            use()


class TestAccepted:
    OTHER: ClassVar = {**SETTINGS, "decoder": "new", "versions": "fake 2"}

    def test_that_other_versions_are_refused_with_the_way_out(self, output, photos):
        folder_runs.run(output, photos)
        before = content(output)
        with pytest.raises(ConfigError, match="--accept-changed decoder,versions") as refusal:
            folder_runs.run(output, photos, settings=self.OTHER)
        assert "decoder: 'fake' there, 'new' now" in str(refusal.value)
        with pytest.raises(ConfigError, match="--accept-changed versions"):
            folder_runs.run(output, photos, settings=self.OTHER, accept_changed=["decoder"])
        assert content(output) == before

    def test_that_other_settings_cannot_be_accepted(self, output, photos):
        folder_runs.run(output, photos)
        other = {**self.OTHER, "prompt": "Who?"}
        with pytest.raises(ConfigError, match=r"prompt: 'What\?' there, 'Who\?' now") as refusal:
            folder_runs.run(output, photos, settings=other, accept_changed=ACCEPTABLE)
        assert "--accept-changed" not in str(refusal.value)

    def test_that_they_are_recorded_once_in_the_run_file_and_in_the_rows_that_are_merged(self, output, photos):
        with pytest.raises(BrokenError):
            folder_runs.run(output, photos, break_after=2)
        folder_runs.run(output, photos, settings=self.OTHER, accept_changed=ACCEPTABLE)
        folder_runs.run(output, photos, settings=self.OTHER, accept_changed=ACCEPTABLE)
        assert run_file(output)["accepted"] == [
            {"field": "decoder", "from": "fake", "to": "new"},
            {"field": "versions", "from": "fake 1", "to": "fake 2"},
        ]
        assert run_file(output)["fingerprint"] == self.OTHER
        then, now = SETTINGS, self.OTHER
        made_with = [read_made_with(output / "data" / f"{name}.parquet") for name in ("00000", "00001")]
        assert all(each in (then, now) and listed.count(each) == 1 for listed in made_with for each in listed)
        assert then in made_with[0] + made_with[1], "of which images it is depends on what was finished"
        assert now in made_with[0] + made_with[1]

    def test_that_rows_redone_later_do_not_forget_what_the_others_were_made_with(self, output, photos):
        folder_runs.run(output, photos)
        (photos / "0.jpg").write_bytes(image(99))
        folder_runs.run(output, photos, settings=self.OTHER, accept_changed=ACCEPTABLE, redo_changed=True)
        assert len(read_made_with(output / "data" / "00000.parquet")) == 2
        assert len(read_made_with(output / "data" / "00001.parquet")) == 1
        before = read_made_with(output / "data" / "00000.parquet")
        (photos / "0.jpg").unlink()
        third = {**self.OTHER, "versions": "fake 3"}
        folder_runs.run(output, photos, settings=third, accept_changed=ACCEPTABLE, prune=True)
        assert read_made_with(output / "data" / "00000.parquet") == before, "pruning makes no row"


class TestOverwrite:
    def interrupted(self, output, photos, **wishes):
        with pytest.raises(BrokenError):
            folder_runs.run(output, photos, break_after=2, **wishes)

    def test_that_the_same_command_goes_on(self, output, photos):
        self.interrupted(output, photos, overwrite="mine")
        assert len(folder_runs.run(output, photos, overwrite="mine")) < 5
        assert folder_runs.run(output, photos, overwrite="mine") == []

    def test_that_the_command_without_it_goes_on_and_then_the_one_with_it(self, output, photos):
        self.interrupted(output, photos, overwrite="mine")
        assert len(folder_runs.run(output, photos)) < 5
        assert folder_runs.run(output, photos, overwrite="mine") == []

    @pytest.mark.parametrize("first", [None, "other"])
    @pytest.mark.parametrize("settings", [SETTINGS, {**SETTINGS, "prompt": "Who?"}])
    def test_that_what_other_commands_have_written_is_replaced(self, output, photos, first, settings):
        folder_runs.run(output, photos, overwrite=first)
        write_tar(output.parent / "0.tar", webdataset_members(2))
        assert find_output(OutputFolder.at(output), want(output.parent / "0.tar", overwrite="mine"))[1]
        assert len(folder_runs.run(output, output.parent / "0.tar", settings=settings, overwrite="mine")) == 2
        assert run_file(output)["shards"].keys() == {"0"}
        assert [path.name for path in (output / "data").iterdir()] == ["0.parquet"]
        assert not (output / "units").exists()

    @pytest.mark.parametrize("damage", ["", "{", '{"format": 1}', "[]", '{"format": 2, "other": 1}'])
    def test_that_a_damaged_run_file_is_refused_without_it_and_replaced_with_it(self, output, photos, damage):
        folder_runs.run(output, photos, overwrite="mine")
        (output / "run.json").write_text(damage)
        with pytest.raises(ConfigError, match=r"run\.json"):
            folder_runs.run(output, photos)
        assert len(folder_runs.run(output, photos, overwrite="mine")) == 5

    def test_that_new_images_are_added_and_not_all_made_anew(self, output, photos):
        folder_runs.run(output, photos, overwrite="mine")
        write_images(photos, ["00.jpg"], 5)
        assert folder_runs.run(output, photos, overwrite="mine") == [image(5)]


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("late", [False, True])
def test_that_processes_of_one_array_see_the_same_units(output, photos, is_new, late):
    """All list the folder, one of them before a file with an early name comes; then all open the output at once."""
    if not is_new:
        folder_runs.run(output, photos)
        write_images(photos, ["3a.jpg", "3b.jpg", "3c.jpg", "3d.jpg"], 20)
    wishes = [want(photos)]
    if late:
        write_images(photos, ["00.jpg"], 30)
    wishes += [want(photos) for _ in range(3)]
    plans = [Ledger(OutputFolder.at(output), wish).find() for wish in wishes]
    ready, found = threading.Barrier(len(plans)), {}

    def start(number):
        ready.wait()
        found[number] = plans[number].open().shards

    threads = [threading.Thread(target=start, args=[number]) for number in range(len(plans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [[shard.name for shard in found[number]] for number in range(1, len(plans))]
    assert names[0] == names[1] == names[2]
    assert names[0][: len(found[0])] == [shard.name for shard in found[0]]
    for part in range(2):
        folder_runs.run(output, photos, part=(part, 2))
    assert not verify(output, photos).faults
    assert len(rows_by_file(output)) == len(list(photos.iterdir()))
