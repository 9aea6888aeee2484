import multiprocessing
import os
import signal

import pytest
from support.guard import GUARD_S, wait_until
from support.ledgers import open_ledger
from support.runs import write_pictures
from support.workers import ELSEWHERE, leave_note, make_work

from recap_fast.errors import OutputGoneError
from recap_fast.store.local import LocalStore
from recap_fast.write import at_work as module
from recap_fast.write.at_work import at_work
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import Usage, read_run
from recap_fast.write.workers import PAUSED_S, SILENT_S, read_note, take_over

SHARDS = ["a", "b/猫"]
ANOTHER = "another process is at work on the same shards"


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


def work():
    return make_work(state="starting", device="")


def notes(store):
    return [file.name for file in store.list("workers")]


def leave(store, owner=ELSEWHERE, shards=SHARDS, age_s=0.0):
    return leave_note(OutputFolder(store), make_work(captioned=90), shards, owner=owner, age_s=age_s)


def test_a_second_process_is_told_and_the_first_is_not(store, caplog):
    with at_work(OutputFolder(store), SHARDS, work):
        assert not caplog.text
        with at_work(OutputFolder(store), SHARDS, work):
            assert f"{ANOTHER} of {store.root}, so images are captioned twice" in caplog.text
            assert len(notes(store)) == 2
    assert not (store.root / "workers").exists()


def test_the_second_is_known_when_the_first_has_ended(store, caplog):
    first, second = at_work(OutputFolder(store), SHARDS, work), at_work(OutputFolder(store), SHARDS, work)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    caplog.clear()
    with at_work(OutputFolder(store), SHARDS, work):
        assert ANOTHER in caplog.text
    second.__exit__(None, None, None)
    assert not notes(store)


def test_processes_with_other_shards_are_no_news(store, caplog):
    with (
        at_work(OutputFolder(store), SHARDS, work),
        at_work(OutputFolder(store), SHARDS[:1], work),
        at_work(OutputFolder(store), SHARDS[1:], work),
    ):
        assert not caplog.text
        assert len(notes(store)) == 3
    assert not notes(store)


def work_for_ever(store, begun):
    with at_work(OutputFolder(store), SHARDS, work):
        begun.set()
        signal.pause()


def test_a_killed_process_is_not_at_work_and_its_note_goes(store, caplog):
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=work_for_ever, args=(store, begun))
    process.start()
    assert begun.wait(GUARD_S)
    with at_work(OutputFolder(store), SHARDS, work):
        assert ANOTHER in caplog.text
    process.kill()
    process.join(GUARD_S)
    caplog.clear()
    assert len(notes(store)) == 1
    with at_work(OutputFolder(store), SHARDS, work):
        assert not caplog.text
        assert len(notes(store)) == 1
    assert not notes(store)


@pytest.mark.parametrize(("age_s", "is_told"), [(0.0, True), (SILENT_S - 9, True), (SILENT_S, False)])
def test_a_process_of_another_machine_lives_while_it_writes(store, caplog, age_s, is_told):
    leave(store, age_s=age_s)
    leave(store, shards=SHARDS[:1], age_s=9 * SILENT_S)
    with at_work(OutputFolder(store), SHARDS, work):
        assert (ANOTHER in caplog.text) == is_told
        assert len(notes(store)) == 2 + is_told, "notes of other parts are left to others"


def test_the_time_is_that_of_the_store_and_not_of_this_machine(store, caplog, monkeypatch):
    leave(store)
    monkeypatch.setattr(module.time, "time", lambda: 9e9)
    with at_work(OutputFolder(store), SHARDS, work):
        assert ANOTHER in caplog.text


@pytest.mark.parametrize(("age_s", "is_told"), [(PAUSED_S - 9, True), (PAUSED_S, False)])
def test_a_process_of_this_machine_may_be_paused_for_a_while(store, caplog, age_s, is_told):
    leave(store, f"{module.owner().rpartition('~')[0]}~{os.getppid()}", age_s=age_s)
    with at_work(OutputFolder(store), SHARDS, work):
        assert (ANOTHER in caplog.text) == is_told


def test_an_earlier_process_with_our_number_is_dead(store, caplog):
    leave(store, module.owner())
    with at_work(OutputFolder(store), SHARDS, work):
        assert not caplog.text


def test_a_note_is_written_again_and_again(store, monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.001)
    asked = []
    with at_work(OutputFolder(store), SHARDS, lambda: asked.append(1) or work()):
        wait_until(lambda: len(asked) >= 3)
        (name,) = notes(store)
        assert read_note(store, name) == work()
    assert not notes(store)


def test_a_note_is_written_at_once_on_request(store):
    told = [work(), make_work(captioned=7)]
    with at_work(OutputFolder(store), SHARDS, lambda: told[0]) as write_now:
        del told[0]
        write_now()
        wait_until(lambda: read_note(store, notes(store)[0]) == make_work(captioned=7))


def test_where_no_note_can_be_written_the_work_goes_on_with_one_warning(store, caplog, monkeypatch):
    (store.root / "workers").write_bytes(b"")
    monkeypatch.setattr(module, "BEAT_S", 0.001)
    asked = []
    with at_work(OutputFolder(store), SHARDS, lambda: asked.append(1) or work()):
        wait_until(lambda: len(asked) >= 4)
    assert caplog.text.count("cannot be written, so `recap-fast status` is out of date") == 1


def test_a_folder_that_is_gone_is_not_made_again(tmp_path, monkeypatch):
    store = LocalStore(tmp_path / "out")
    store.make_root()
    monkeypatch.setattr(module, "BEAT_S", 0.001)
    asked = []
    with at_work(OutputFolder(store), SHARDS, lambda: asked.append(1) or work()):
        store.delete(notes(store))
        (tmp_path / "out").rename(tmp_path / "gone")
        before = len(asked)
        wait_until(lambda: len(asked) >= before + 3)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def output(tmp_path):
    """Of a run, so that it has a run file."""
    write_pictures(tmp_path / "in", 2, 1)
    return open_ledger(tmp_path / "out", tmp_path / "in/*.tar").output


def test_what_was_used_is_recorded_in_the_end_if_the_work_had_begun(output, caplog):
    with at_work(output, SHARDS, work):
        pass
    assert read_run(output).usage == {}
    for captioned in (10, 30):
        used = make_work(captioned=captioned, held_s=60.04)
        with at_work(output, SHARDS, lambda used=used: used):
            pass
    with pytest.raises(KeyError), at_work(output, SHARDS, lambda: make_work(device="cpu", is_gpu=False)):
        raise KeyError
    assert read_run(output).usage == {
        "NVIDIA H100": Usage(2, 40, 120.0, is_gpu=True),
        "cpu": Usage(1, 0, 1800.0, is_gpu=False),
    }
    assert caplog.text == ""


def test_nothing_is_recorded_in_the_run_file_of_another_run(output):
    with pytest.raises(OutputGoneError), at_work(output, SHARDS, make_work):
        raise OutputGoneError
    assert read_run(output).usage == {}


def test_what_a_dead_process_had_used_is_recorded_once_by_its_successor(output):
    leave(output.store, age_s=SILENT_S)
    leave(output.store, shards=SHARDS[:1], age_s=SILENT_S)
    with at_work(output, SHARDS, work):
        assert read_run(output).usage == {"NVIDIA H100": Usage(1, 90, 1800.0, is_gpu=True)}
    with at_work(output, SHARDS, work):
        assert read_run(output).usage["NVIDIA H100"].processes == 1


def test_of_several_successors_one_records_it(output, monkeypatch):
    name = leave(output.store, age_s=SILENT_S)
    replace, claimed = LocalStore.replace, []

    def replace_late(store, *rest):
        monkeypatch.setattr(LocalStore, "replace", replace)
        claimed.append(take_over(store, name))  # another process, between our look at the note and our claim
        return replace(store, *rest)

    monkeypatch.setattr(LocalStore, "replace", replace_late)
    assert take_over(output.store, name) is None
    assert [work.captioned for work in claimed] == [90]


def test_a_note_that_is_damaged_goes_and_says_nothing(output):
    name = leave(output.store, age_s=SILENT_S)
    path = output.store.root / name
    then = path.stat().st_mtime
    path.write_bytes(b"{}")
    os.utime(path, (then, then))
    with at_work(output, SHARDS, work):
        assert len(notes(output.store)) == 1
    assert read_run(output).usage == {}
