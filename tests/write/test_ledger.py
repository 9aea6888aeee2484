import contextlib
import dataclasses
import os

import numpy as np
import pytest
from support.finished_rows import finish, output_file
from support.guard import in_processes
from support.ledgers import open_ledger, path_of, to_compare
from support.shard_files import webdataset_members, write_rows, write_tar

from recap_fast.atomic import sha256_of, temporary_file, temporary_path
from recap_fast.records import Identity, OutputFile, ShardReport
from recap_fast.shards.identity import identity
from recap_fast.write import stretches
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.verify import verify

N = 10


@pytest.fixture
def inputs(tmp_path):
    for i in range(3):
        write_tar(tmp_path / "in" / f"{i}.tar", webdataset_members(N, i * N))
    return tmp_path / "in"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def ledger(inputs, output):
    return open_ledger(output, inputs)


@pytest.fixture
def shard(ledger):
    return ledger.shards[0]


@pytest.fixture
def done(ledger):
    """The ledger once all its shards are finished."""
    for shard in ledger.shards:
        finish(ledger, shard)
    return ledger


def stretch(ledger, shard, indices, *, version=None, failed=(), tag=""):
    """What the pipeline does after every 1,000 captions."""
    indices = list(indices)
    folder, text = path_of(ledger.output, ledger.output.partial(shard.name)), (version or identity(shard)).text
    with temporary_file(folder / "stretch") as path:
        write_rows(path, shard.name, indices, failed=failed, made_from=text, tag=tag)
        return path.rename(folder / stretches.stretch_name(indices[0], indices[-1], sha256_of(path)))


def reasons(ledger):
    return {pending.shard.name: pending.reason for pending in ledger.pending()}


def touch(shard):
    os.utime(shard.url, ns=(0, 12345))


def test_a_new_run_and_what_is_done_of_it(ledger, inputs, output):
    assert reasons(ledger) == {"0": "new", "1": "new", "2": "new"}
    finish(ledger, ledger.shards[1])
    assert reasons(open_ledger(output, inputs)) == {"0": "new", "2": "new"}
    assert [pending.shard.name for pending in ledger.pending(ledger.shards[:2])] == ["0"]


@pytest.mark.parametrize("status", ["failed", "truncated", "interrupted"])
def test_shards_that_are_not_complete_are_tried_again(ledger, status):
    finish(ledger, ledger.shards[0], status=status)
    assert reasons(ledger)["0"] == status


def test_a_truncated_shard_keeps_its_rows(ledger, shard, output):
    finish(ledger, shard, status="truncated", indices=range(7), failed=[6])
    state = ledger.state(shard, identity(shard))
    assert state.files == (path_of(ledger.output, ledger.output.data(shard.name)),)
    assert state.done.tolist() == list(range(7))
    touch(shard)
    assert ledger.state(shard, identity(shard)).done.tolist() == []


def test_retry_failed(inputs, output):
    ledger, retrying = open_ledger(output, inputs), open_ledger(output, inputs, retry=("all",))
    finish(ledger, ledger.shards[0], failed=[2, 5])
    finish(ledger, ledger.shards[1])
    assert reasons(ledger) == {"2": "new"}
    assert reasons(retrying) == {"0": "retry", "2": "new"}
    shard = ledger.shards[0]
    assert retrying.state(shard, identity(shard)).done.tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
    later = stretch(ledger, shard, [2], tag=" again")
    state = retrying.state(shard, identity(shard))
    assert state.files == (path_of(ledger.output, ledger.output.data(shard.name)), later)
    assert 2 in state.done
    assert 5 not in state.done
    assert ledger.state(shard, identity(shard)).done.tolist() == list(range(N))


def test_changed_inputs_are_named_and_redone_on_request(done, output, inputs, caplog):
    touch(done.shards[1])
    assert reasons(done) == {}
    assert f"1 shard has changed since it was captioned: {done.shards[1].url}. Give" in caplog.text
    assert reasons(open_ledger(output, inputs, redo=True)) == {"1": "changed"}
    assert done.state(done.shards[1], identity(done.shards[1])).done.tolist() == []


def test_retried_rows_of_a_changed_tar_are_not_said_to_stay(inputs, output, caplog):
    ledger = open_ledger(output, inputs)
    for number, shard in enumerate(ledger.shards):
        finish(ledger, shard, failed=[2] * (number == 1))
    touch(ledger.shards[1])
    assert reasons(open_ledger(output, inputs, retry=("all",))) == {"1": "changed"}
    assert not caplog.records


def test_inputs_that_are_gone_after_they_were_done_are_no_trouble(done, inputs, caplog):
    (inputs / "0.tar").unlink()
    assert reasons(dataclasses.replace(done, redo_changed=True)) == {}
    assert "is done, but its input is not there" in caplog.text


def test_an_output_that_is_gone_or_cut_is_made_again(done, output):
    path_of(done.output, done.output.data("0")).unlink()
    cut = path_of(done.output, done.output.data("1"))
    cut.write_bytes(cut.read_bytes()[:-10])
    assert reasons(done) == {"0": "output missing", "1": "output missing"}
    assert done.state(done.shards[1], identity(done.shards[1])).files == ()


def test_stretches_survive_and_later_ones_win(ledger, shard, inputs, output):
    version = identity(shard)
    first = stretch(ledger, shard, [0, 1, 2], failed=[1])
    second = stretch(ledger, shard, [4, 5])
    third = stretch(ledger, shard, [1, 5], failed=[5])
    again = open_ledger(output, inputs)
    state = again.state(shard, version)
    assert state.files == (first, second, third)
    assert state.done.tolist() == [0, 1, 2, 4, 5]
    again = open_ledger(output, inputs, retry=("all",))
    assert again.state(shard, version).done.tolist() == [0, 1, 2, 4]


def test_stretches_of_another_version_or_cut_ones_do_not_count(ledger, shard, caplog):
    old = stretch(ledger, shard, [0, 1], version=Identity(1, "old"))
    cut = stretch(ledger, shard, [2, 3])
    cut.write_bytes(cut.read_bytes()[:-10])
    good = stretch(ledger, shard, [4])
    state = ledger.state(shard, identity(shard))
    assert (state.files, state.done.tolist()) == ((old, good), [4])
    assert state.done.dtype == np.int64
    assert f"{cut} cannot be used (it is not as it was written): its images are captioned again" in caplog.text


def test_a_kill_between_output_and_record_costs_nothing(ledger, shard, output):
    path = write_rows(
        path_of(ledger.output, ledger.output.data(shard.name)), shard.name, range(N), made_from=identity(shard).text
    )
    stretches.announce_output(ledger.output, shard.name, sha256_of(path))
    stretch(ledger, shard, [0, 1])
    assert reasons(ledger)["0"] == "new"
    assert ledger.state(shard, identity(shard)).done.tolist() == list(range(N))


def test_a_kill_between_record_and_removal_of_stretches_leaves_none(ledger, shard, inputs, output, monkeypatch):
    left = stretch(ledger, shard, [0, 1], tag=" old", failed=[0])
    with monkeypatch.context() as patch:
        patch.setattr("recap_fast.write.ledger.remove_stretches", lambda *_, **__: None)
        finish(ledger, shard)
        assert left.exists()
        # what the record covers is not taken for newer than the output
        assert ledger.state(shard, identity(shard)).files == (path_of(ledger.output, ledger.output.data(shard.name)),)
    assert "0" not in reasons(open_ledger(output, inputs))
    assert not (output / "partial").exists()


def test_commit_removes_the_stretches_of_this_shard_only(inputs, output, tmp_path):
    write_tar(inputs / "0" / "deep.tar", webdataset_members(1))
    ledger = open_ledger(output, inputs)
    by_name = {shard.name: shard for shard in ledger.shards}
    mine, deeper = stretch(ledger, by_name["0"], [0]), stretch(ledger, by_name["0/deep"], [0])
    finish(ledger, by_name["0"])
    assert not mine.exists()
    assert deeper.exists()
    finish(ledger, by_name["0/deep"], indices=[0])
    assert not (output / "partial").exists()


def test_is_done(ledger, shard):
    version = identity(shard)
    assert not ledger.is_done(shard, version)
    finish(ledger, shard)
    assert ledger.is_done(shard, version)
    assert not ledger.is_done(shard, Identity(1, "other"))


def test_a_shard_that_could_not_be_read_has_no_output(ledger, shard, output):
    kept = stretch(ledger, shard, [0])
    ledger.commit(ShardReport(shard="0", status="failed", error="is no tar"))
    record = ledger.record("0")
    assert record is not None
    assert (record.error, record.input, record.output) == ("is no tar", None, None)
    assert kept.exists()
    assert reasons(ledger)["0"] == "failed"


def test_a_record_fits_the_file_that_another_process_put_in_the_place_of_ours(ledger, shard, output):
    finish(ledger, shard, failed=[1])
    ours = ledger.record("0")
    assert ours is not None
    finish(ledger, shard, tag=" by another process")
    # our record is written after the other's file and record
    ledger.commit(ours)
    record = ledger.record("0")
    assert record is not None
    assert record.output == output_file(path_of(ledger.output, ledger.output.data(shard.name))) != ours.output
    assert (record.captioned, record.failed) == (N, {})


def test_what_is_counted_again_is_one_file(ledger, shard, inputs, output, monkeypatch):
    """The output is replaced once more while it is read."""
    finish(ledger, shard)

    def recount(file, report):
        if not replaced:
            replaced.append(file)
            finish(other, shard, failed=[1, 2], tag=" by a third process, at greater length")
        return stretches.recount(file, report)

    replaced, other = [], open_ledger(output, inputs)
    monkeypatch.setattr("recap_fast.write.ledger.recount", recount)
    lost = ledger.record("0")
    assert lost is not None
    ledger.commit(dataclasses.replace(lost, output=OutputFile("0" * 64, 1)))
    record = ledger.record("0")
    assert record is not None
    assert replaced
    assert record.output == output_file(path_of(ledger.output, ledger.output.data(shard.name)))
    assert (record.captioned, record.failed) == (N - 2, {"truncated": 2})


def _work_and_commit(output, inputs):
    ledger = open_ledger(output, inputs)
    for shard in ledger.shards:
        for first in range(0, N, 2):
            for _ in range(10):  # the folder may go with another's last stretch before ours is in it: a run would end
                with contextlib.suppress(FileNotFoundError):
                    stretch(ledger, shard, [first, first + 1])
                    break
            else:
                stretch(ledger, shard, [first, first + 1])
        finish(ledger, shard, tag=" x" * (os.getpid() % 97))


def test_processes_that_commit_the_same_shards_do_no_harm(inputs, output):
    in_processes(*[lambda: _work_and_commit(output, inputs)] * 4)
    ledger = open_ledger(output, inputs)
    assert reasons(ledger) == {}
    assert verify(OutputFolder.at(output), to_compare(inputs)).faults == []
    assert not (output / "partial").exists()
    assert not [path for path in output.rglob("*") if path.name.endswith(".tmp")]


def test_leftovers_of_a_killed_process_go_at_the_next_start(ledger, inputs, output):
    in_processes(lambda: temporary_path(path_of(ledger.output, ledger.output.data("0"))).write_bytes(b"PAR1"))
    assert len(list((output / "data").iterdir())) == 1
    open_ledger(output, inputs)
    assert list((output / "data").iterdir()) == []
