import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.finished_rows import finish
from support.ledgers import open_ledger, path_of
from support.shard_files import webdataset_members, write_rows, write_tar

from recap_fast.atomic import sha256_of
from recap_fast.errors import RecapError
from recap_fast.write.rows import CAPTIONS_KEY, read_rows
from recap_fast.write.schema import SCHEMA
from recap_fast.write.stretches import stretch_name


@pytest.fixture
def ledger(tmp_path):
    write_tar(tmp_path / "in/a.tar", webdataset_members(5))
    return open_ledger(tmp_path / "out", tmp_path / "in")


def write_stretch(ledger, indices, tag):
    path = write_rows(path_of(ledger.output, ledger.output.partial("a")) / "new.parquet", "a", indices, tag=tag)
    path.rename(path.parent / stretch_name(indices[0], indices[-1], sha256_of(path)))


def write_scores(ledger, indices, captions=None):
    """Scores of these rows, each a tenth of its index, and minus that of the original caption."""
    path = path_of(ledger.output, ledger.output.scores("clip", "a"))
    path.parent.mkdir(parents=True, exist_ok=True)
    tenths = [index / 10 for index in indices]
    table = pa.table({"index": indices, "re_clip_score": tenths, "org_clip_score": [-t for t in tenths]})
    captions = captions or ledger.record("a").output.sha256
    pq.write_table(table.replace_schema_metadata({CAPTIONS_KEY: captions}), path)


def rows(ledger, *columns):
    return [row for batch in read_rows(ledger.output, "a", columns or None) for row in batch.to_pylist()]


def test_all_columns_of_a_finished_shard_in_the_order_of_the_schema(ledger):
    finish(ledger, ledger.shards[0])
    (batch,) = read_rows(ledger.output, "a")
    assert batch.schema.names == SCHEMA.names
    assert batch["index"].to_pylist() == [0, 1, 2, 3, 4]


def test_columns_come_in_the_order_that_was_asked_for(ledger):
    finish(ledger, ledger.shards[0])
    (batch,) = read_rows(ledger.output, "a", ["key", "status"])
    assert batch.schema.names == ["key", "status"]
    assert batch.schema.field("key").type == pa.string()


def test_rows_of_an_unfinished_shard_are_in_order_and_the_last_of_each_counts(ledger):
    write_stretch(ledger, [2, 4], " of the first")
    write_stretch(ledger, [0, 2], " of the second")
    found = [row["re_caption"] for row in rows(ledger, "re_caption")]
    assert found == ["caption 0 of the second", "caption 2 of the second", "caption 4 of the first"]


def test_nothing_was_made_of_a_shard(ledger):
    assert rows(ledger) == []


def test_scores_are_filled_in_by_index(ledger):
    finish(ledger, ledger.shards[0])
    write_scores(ledger, [1, 2, 4])
    found = [row["re_clip_score"] for row in rows(ledger, "re_clip_score")]
    assert found == [None, 0.1, 0.2, None, 0.4]
    assert rows(ledger)[4]["org_clip_score"] == -0.4


def test_scores_of_other_captions_do_not_count(ledger):
    finish(ledger, ledger.shards[0])
    write_scores(ledger, [0, 1, 2, 3, 4], captions="0" * 64)
    assert {row["re_clip_score"] for row in rows(ledger)} == {None}


def test_a_damaged_file_of_scores_is_named_with_what_makes_it_again(ledger):
    finish(ledger, ledger.shards[0])
    write_scores(ledger, [0, 1, 2, 3, 4])
    path = path_of(ledger.output, ledger.output.scores("clip", "a"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RecapError, match=r"scores/clip/a\.parquet cannot be read .*`recap-fast score` that made it"):
        rows(ledger)
    assert [row["index"] for row in rows(ledger, "index")] == [0, 1, 2, 3, 4]


def test_a_damaged_file_is_named(ledger):
    finish(ledger, ledger.shards[0])
    path_of(ledger.output, ledger.output.data("a")).write_bytes(b"PAR1")
    with pytest.raises(RecapError, match=r"the rows of shard a cannot be read .*: `recap-fast verify` says what to do"):
        rows(ledger)


def test_a_shard_that_is_finished_meanwhile_is_read_from_its_file(ledger, monkeypatch):
    write_stretch(ledger, [0, 1], "early")
    found = read_rows(ledger.output, "a", ["index"])
    (stretch,) = path_of(ledger.output, ledger.output.partial("a")).glob("*.parquet")
    local, calls = type(ledger.output.store).local, []

    def finished_between(store, name):
        if not calls:
            calls.append(name)
            finish(ledger, ledger.shards[0])
            stretch.unlink(missing_ok=True)
        return local(store, name)

    monkeypatch.setattr(type(ledger.output.store), "local", finished_between)
    assert [index for batch in found for index in batch["index"].to_pylist()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("lacking", [["captions"], ["flags", "duplicate_of", "captions"]])
def test_columns_that_came_later_are_null_in_rows_of_earlier_versions(ledger, lacking):
    finish(ledger, ledger.shards[0])
    path = path_of(ledger.output, ledger.output.data("a"))
    expected = pq.read_table(path).to_pylist()
    pq.write_table(pq.read_table(path).drop_columns(lacking), path)
    assert rows(ledger) == [row | dict.fromkeys(lacking) for row in expected]
    assert rows(ledger, "captions", "key") == [{"captions": None, "key": row["key"]} for row in expected]
