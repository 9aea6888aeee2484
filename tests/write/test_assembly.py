from pathlib import Path

import pytest
from support.fake_runs import detokenize
from support.finished_rows import finished
from support.runs import indices

from recap_fast.pipeline.counters import Progress
from recap_fast.records import Identity, Shard, ShardReport
from recap_fast.shards.expand import ShardSet
from recap_fast.write.assembly import Assembly, EndOfShard, OpenShard, Ticket
from recap_fast.write.ledger import Ledger
from recap_fast.write.shard_writer import ShardWriter

VERSION = Identity(10, "1")


class Job:
    """An assembly over a ledger, with shards opened by hand."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.shards = tuple(Shard(name, f"/in/{name}.tar", "tar") for name in ("a", "b"))
        self.ledger = Ledger.open(folder, {}, ShardSet("/in", self.shards))
        self.progress = Progress(2)
        self.released: list[int] = []
        self.assembly = Assembly(self.ledger, self.progress, self.released.append)

    def open(self, shard: Shard, **options) -> OpenShard:
        writer = ShardWriter(
            self.ledger.output_path(shard),
            lambda first, last: self.ledger.stretch_path(shard, first, last),
            detokenize,
            metadata=self.ledger.file_metadata(shard, VERSION),
            **options,
        )
        return OpenShard(shard, VERSION, writer, 0.0)

    def add(self, opened: OpenShard, order: int) -> None:
        sample = finished(order, shard=opened.shard.name)
        self.assembly.add(Ticket(opened, order, sample.sample), sample)

    def end(self, opened: OpenShard, total: int, whole: bool = True, problem: str | None = None) -> None:
        self.assembly.end(EndOfShard(opened.shard, opened, total, whole, problem))


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "out")


def test_a_shard_is_finished_when_its_end_and_its_last_row_are_there_whichever_is_first(job):
    a, b = map(job.open, job.shards)
    job.add(a, 1)
    job.add(b, 0)
    job.end(b, 1)
    job.end(a, 2)
    assert [r.shard for r in job.assembly.reports] == ["b"]
    job.add(a, 0)
    assert [(r.shard, r.status, r.rows) for r in job.assembly.reports] == [("b", "complete", 1), ("a", "complete", 2)]
    assert indices(job.ledger.output_path(a.shard)) == [0, 1]
    assert job.released == [1, 2], "a released row frees its place in the window, no other does"
    assert job.progress.snapshot().shards_done == 2


def test_the_done_record_has_the_output_and_the_input(job):
    a = job.open(job.shards[0])
    job.add(a, 0)
    job.end(a, 1)
    record = job.ledger.record("a")
    assert record.identity == VERSION
    assert record.output_bytes == job.ledger.output_path(a.shard).stat().st_size
    assert record.report.captioned == 1
    assert record.report.seconds["wall"] > 0


def test_an_empty_shard_is_complete(job):
    a = job.open(job.shards[0])
    job.end(a, 0)
    assert (job.assembly.reports[0].status, job.assembly.reports[0].rows) == ("complete", 0)
    assert job.ledger.output_path(a.shard).exists()


def test_a_shard_that_was_not_read_to_its_end_is_interrupted_and_its_rows_are_kept(job):
    a = job.open(job.shards[0])
    for order in (0, 1, 3):
        job.add(a, order)
    job.end(a, 4, whole=False)
    job.assembly.close()
    assert [r.status for r in job.assembly.reports] == ["interrupted"]
    assert job.ledger.record("a") is None
    assert job.ledger.progress(a.shard, VERSION).done.tolist() == [0, 1, 3]


def test_a_shard_that_could_not_be_opened_has_a_record_of_why(job):
    job.assembly.end(EndOfShard(job.shards[1], None, 0, True, "is no tar"))
    assert job.assembly.reports == [ShardReport(shard="b", status="failed", error="is no tar")]
    assert job.ledger.record("b").report.error == "is no tar"
    job.assembly.close()
    assert len(job.assembly.reports) == 1


def test_a_shard_with_a_problem_is_truncated(job):
    a = job.open(job.shards[0])
    job.add(a, 0)
    job.end(a, 1, problem="ends in the middle of a member")
    assert [(r.status, r.error) for r in job.assembly.reports] == [("truncated", "ends in the middle of a member")]


def test_a_shard_that_another_process_finished_and_cleaned_up_is_as_good_as_ours(job, caplog):
    gone = job.folder / "partial" / "a" / "gone.parquet"
    other, a = job.open(job.shards[0]), job.open(job.shards[0], kept=[gone])
    job.add(other, 0)
    job.end(other, 1)
    job.add(a, 0)
    job.end(a, 1)
    assert [(r.status, r.rows) for r in job.assembly.reports] == [("complete", 1)] * 2
    assert "another process finished it first" in caplog.text


def test_rows_that_vanished_are_an_error_where_nobody_finished_the_shard(job):
    a = job.open(job.shards[0], kept=[job.folder / "partial" / "a" / "gone.parquet"])
    job.add(a, 0)
    with pytest.raises(FileNotFoundError, match="gone"):
        job.end(a, 1)


def test_rows_that_have_waited_long_go_to_disk_also_while_nothing_comes(job, monkeypatch):
    a = job.open(job.shards[0])
    job.add(a, 0)
    monkeypatch.setattr("recap_fast.write.shard_writer.STRETCH_SECONDS", -1.0)
    job.assembly.flush_old()
    assert job.ledger.progress(a.shard, VERSION).done.tolist() == [0]
