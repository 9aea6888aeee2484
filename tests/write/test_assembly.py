import re
from pathlib import Path
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest
from support.fake_runs import detokenize
from support.finished_rows import finished, output_file
from support.ledgers import path_of
from support.runs import indices

from recap_fast.inputs import Inputs, Source
from recap_fast.records import Identity, Shard, ShardReport
from recap_fast.write.assembly import Assembly, EndOfShard
from recap_fast.write.ledger import Ledger
from recap_fast.write.opening import Wanted
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.stretches import Kept

VERSION = Identity(10, "1")


class Job:
    """An assembly over a ledger, as a process has them, with shards begun and rows added by hand."""

    def __init__(self, folder: Path, root: str = "/in"):
        self.output = OutputFolder.at(folder)
        inputs = Inputs(root, tuple(Source(f"/in/{name}.tar", "tar") for name in ("a", "b")))
        wanted = Wanted(fingerprint={}, inputs=inputs, version_of=lambda _: VERSION, versions_of=lambda *_: ())
        self.ledger = Ledger(self.output, wanted).open()
        self.shards = self.ledger.shards
        self.released: list[int] = []
        self.released_bytes = 0
        self.on_report = Mock()
        self.assembly = Assembly(self.ledger, detokenize, self.release, self.on_report)

    def release(self, num_rows: int, num_bytes: int) -> None:
        self.released.append(num_rows)
        self.released_bytes += num_bytes

    def begin(self, shard: Shard) -> Shard:
        self.assembly.begin(shard, VERSION)
        return shard

    def add(self, shard: Shard, order: int) -> None:
        self.assembly.add(finished(order, shard=shard.name, input_version=VERSION.text))

    def end(self, shard: Shard, total: int) -> None:
        self.assembly.end(EndOfShard(shard, total, whole=True, problem=None))

    def lose_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on the ledger knows of a file with rows that is not there."""
        gone = path_of(self.output, self.output.partial("a")) / "gone.parquet"
        monkeypatch.setattr(Ledger, "state", lambda *_: Kept((gone,)))


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "out")


@pytest.fixture
def a(job):
    return job.begin(job.shards[0])


def test_a_shard_is_finished_when_its_end_and_its_last_row_are_there_whichever_is_first(job):
    a, b = map(job.begin, job.shards)
    job.add(a, 1)
    job.add(b, 0)
    job.end(b, 1)
    job.end(a, 2)
    assert [r.shard for r in job.assembly.reports] == ["b"]
    job.add(a, 0)
    assert [(r.shard, r.status, r.rows) for r in job.assembly.reports] == [("b", "complete", 1), ("a", "complete", 2)]
    assert indices(path_of(job.output, job.output.data("a"))) == [0, 1]
    assert job.released == [1, 2], "a released row frees its place in the window, no other does"
    assert job.on_report.call_count == 2


@pytest.mark.parametrize("num_rows", [0, 1])
def test_the_done_record_has_the_output_and_the_input(a, job, num_rows):
    for order in range(num_rows):
        job.add(a, order)
    job.end(a, num_rows)
    record = job.ledger.record("a")
    assert (record.status, record.captioned, record.input) == ("complete", num_rows, VERSION)
    assert record.output == output_file(path_of(job.output, job.output.data("a")))
    assert "wall" in record.seconds


def test_a_shard_that_could_not_be_opened_has_a_record_of_why(job):
    job.assembly.end(EndOfShard(job.shards[1], 0, True, "is no tar"))
    assert job.assembly.reports == [ShardReport(shard="b", status="failed", error="is no tar")]
    assert job.ledger.record("b").error == "is no tar"
    job.assembly.close()
    assert len(job.assembly.reports) == 1


def test_rows_and_records_name_files_below_the_folders_of_inputs_and_output(job):
    job.begin(job.shards[0])
    error = f"/in/x.jpg, /in: '/in' /inner /x/in {job.output.address}/data"
    job.assembly.add(finished(0, None, shard="a", status="unreadable", error=error, warning="/in/y"))
    job.assembly.close()
    (path,) = Path(job.output.address).glob("partial/**/*.parquet")
    (written,) = pq.read_table(path, columns=["error", "warning"], partitioning=None).to_pylist()
    assert written == {"error": "x.jpg, .: '.' /inner /x/in data", "warning": "y"}
    job.assembly.end(EndOfShard(job.shards[1], 0, True, f"/in/b.tar is no tar; {job.output.address}"))
    assert job.ledger.record("b").error == "b.tar is no tar; ."


@pytest.mark.parametrize("root", ["", "/"])
def test_inputs_without_a_common_folder_are_named_in_full(tmp_path, root):
    ledger = Job(tmp_path / "out", root).ledger
    assert ledger.publishable("http://a/b and /c/d.tar") == "http://a/b and /c/d.tar"


def test_a_shard_that_another_process_finished_and_cleaned_up_is_as_good_as_ours(job, caplog, monkeypatch):
    other = Job(Path(job.output.address))
    a = other.begin(job.shards[0])
    job.lose_rows(monkeypatch)
    job.begin(a)
    for each in (other, job):
        each.add(a, 0)
        each.end(a, 1)
    reports = [*other.assembly.reports, *job.assembly.reports]
    assert [(r.status, r.rows) for r in reports] == [("complete", 1)] * 2
    assert "another process finished it first" in caplog.text


def test_rows_that_vanished_fail_the_shard_where_nobody_finished_it(job, monkeypatch):
    job.lose_rows(monkeypatch)
    a = job.begin(job.shards[0])
    job.add(a, 0)
    job.end(a, 1)
    (report,) = job.assembly.reports
    assert report.status == "failed"
    assert re.match("a file of the output was removed meanwhile: .*gone.parquet", report.error)


def test_rows_that_have_waited_long_go_to_disk_also_while_nothing_comes(a, job, monkeypatch):
    job.add(a, 0)
    monkeypatch.setattr("recap_fast.write.shard_writer.STRETCH_SECONDS", -1.0)
    job.assembly.flush_old()
    assert job.ledger.state(a, VERSION).done.tolist() == [0]
