import pytest
from support.finished_rows import finish
from support.ledgers import open_ledger, path_of
from support.shard_files import webdataset_members, write_rows, write_tar

from recap_fast.atomic import sha256_of
from recap_fast.errors import ConfigError, RecapError
from recap_fast.records import ShardReport
from recap_fast.write.failures import Failure, failed_shards, failures
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.stretches import stretch_name


@pytest.fixture
def ledger(tmp_path):
    """A finished shard with failures in rows 1 and 3, one with a stretch that has them in row 0, and one not begun."""
    for name in "abc":
        write_tar(tmp_path / f"in/{name}.tar", webdataset_members(5))
    ledger = open_ledger(tmp_path / "out", tmp_path / "in")
    finish(ledger, ledger.shards[0], failed=[1, 3])
    write_stretch(ledger, "b", [0, 1], failed=[0])
    return ledger


def write_stretch(ledger, name, indices, failed):
    folder = path_of(ledger.output, ledger.output.partial(name))
    path = write_rows(folder / "new.parquet", name, indices, failed=failed)
    return path.rename(folder / stretch_name(indices[0], indices[-1], sha256_of(path)))


def test_rows_without_a_caption_of_finished_shards_and_of_others(ledger):
    found = list(failures(ledger.output))
    assert [(failure.shard, failure.index, failure.status) for failure in found] == [
        *(("a", 1, "truncated"), ("a", 3, "truncated"), ("b", 0, "truncated")),
    ]
    assert isinstance(found[0], Failure)
    assert found[0].key == "000000001"


def found(ledger):
    return [(failure.shard, failure.index) for failure in failures(ledger.output)]


def test_of_images_that_were_done_again_the_last_row_counts(ledger):
    write_stretch(ledger, "b", [0, 2, 3], failed=[2, 3])
    write_stretch(ledger, "b", [3], failed=[3])
    write_stretch(ledger, "a", [1], failed=[])
    assert found(ledger) == [("a", 3), ("b", 2), ("b", 3)]


def test_stretches_from_before_the_output_do_not_count(ledger, monkeypatch):
    monkeypatch.setattr("recap_fast.write.ledger.remove_stretches", lambda *_: None)  # killed before
    finish(ledger, ledger.shards[1])
    assert list(path_of(ledger.output, ledger.output.partial("b")).iterdir())
    assert found(ledger) == [("a", 1), ("a", 3)]


@pytest.mark.parametrize(("statuses", "num"), [((), 3), (("truncated", "corrupt"), 3), (("corrupt",), 0)])
def test_statuses_choose(ledger, statuses, num):
    assert len(list(failures(ledger.output, statuses))) == num


def test_shards_that_could_not_be_read_whole(ledger):
    assert failed_shards(ledger.output) == []
    ledger.commit(ShardReport(shard="c", status="failed", error=f"{ledger.wanted.inputs.root}/c.tar is no tar"))
    assert [(report.shard, report.error) for report in failed_shards(ledger.output)] == [("c", "c.tar is no tar")]


def test_what_is_no_output_and_what_is_damaged_is_said(tmp_path, ledger):
    with pytest.raises(ConfigError, match=r"has no run\.json: it is not the --output of a run"):
        next(failures(OutputFolder.at(tmp_path)))
    path_of(ledger.output, ledger.output.data("a")).write_bytes(b"PAR1")
    with pytest.raises(RecapError, match=r"the rows of shard a cannot be read .*: `recap-fast verify` says what to do"):
        list(failures(ledger.output))
