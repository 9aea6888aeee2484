"""What is scored, skipped, lost and failed of an output, with a scorer that needs no model."""

from dataclasses import fields

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.finished_rows import finish
from support.folder_runs import write_images
from support.ledgers import open_ledger, path_of
from support.scorers import LengthScorer
from support.shard_files import webdataset_members, write_tar

from recap_fast.joined import JoinedOutput
from recap_fast.records import Selection
from recap_fast.score.ahead import StalledError
from recap_fast.score.sample import Sample
from recap_fast.score.scoring import Scoring

MARKS = {"engine": "tiny", **{field.name: field.default for field in fields(Selection)}}


@pytest.fixture
def ledger(tmp_path):
    """Of tars of 20 and of 3 images and a folder of two."""
    write_tar(tmp_path / "in/a.tar", webdataset_members(20))
    write_tar(tmp_path / "in/b.tar", webdataset_members(3, first=20))
    write_images(tmp_path / "in/photos", ["x.jpg", "y.jpg"])
    return open_ledger(tmp_path / "out", tmp_path / "in", marks=MARKS)


@pytest.fixture
def done(ledger):
    """The same with all captions; some images of the first tar have none."""
    for shard in ledger.shards:
        finish(ledger, shard, failed=[2, 4] if shard.name == "a" else [])
    return ledger


def scoring_of(ledger, scorer=None, patterns=()):
    made = Scoring(JoinedOutput.open(ledger.output, patterns), scorer or LengthScorer())
    made.totals = made.run()
    return made


def rows_of(ledger, name):
    return pq.read_table(path_of(ledger.output, ledger.output.scores("clip", name))).to_pylist()


def test_every_row_has_its_line_in_order_and_failed_ones_have_no_score(done):
    made = scoring_of(done)
    assert (made.num_scored, made.num_shards, made.num_unfinished, made.failed) == (23, 3, 0, {})
    rows = rows_of(done, "a")
    assert [row["index"] for row in rows] == list(range(20))
    assert {row["shard"] for row in rows} == {"a"}
    scores = [None if i in (2, 4) else float(len(f"caption {i}")) for i in range(20)]
    assert [row["re_clip_score"] for row in rows] == scores
    assert {row["org_clip_score"] for row in rows} == {None}
    assert [row["index"] for row in rows_of(done, done.shards[2].name)] == [0, 1]


def test_images_of_failed_rows_are_not_read(done):
    scorer = scoring_of(done).scorer
    assert [index for shard, index, _ in scorer.seen if shard == "a"] == [i for i in range(20) if i not in (2, 4)]
    assert {image for shard, _, image in scorer.seen if shard == "b"} == {
        f"image {i}".encode() * 20 for i in range(20, 23)
    }
    assert scorer.num_calls == 1


def test_what_read_rows_gives_has_the_scores(done):
    made = scoring_of(done)
    (batch,) = made.joined.rows("b", ["index", "re_clip_score"])
    assert batch["re_clip_score"].to_pylist() == [9.0, 9.0, 9.0]


def test_progress_ends_with_all(done):
    told = []
    made = Scoring(JoinedOutput.open(done.output), LengthScorer(), lambda *numbers: told.append(numbers))
    made.run()
    assert told[0] == (0, 23)
    assert told[-1] == (23, 23)


def test_a_shard_is_scored_once_for_each_version_of_its_captions(done):
    scoring_of(done)
    again = scoring_of(done)
    assert (again.num_scored, again.num_shards, again.scorer.seen) == (0, 0, [])
    finish(done, done.shards[1], tag=" of another run")
    third = scoring_of(done)
    assert {shard for shard, _, _ in third.scorer.seen} == {"b"}
    assert [row["re_clip_score"] for row in rows_of(done, "b")] == [24.0] * 3


def test_shards_that_are_not_finished_wait(ledger):
    finish(ledger, ledger.shards[0])
    made = scoring_of(ledger)
    assert (made.num_shards, made.num_unfinished) == (1, 2)
    assert made.totals.rows == 20


def test_an_image_that_is_gone_and_one_that_is_another_have_no_score(done, tmp_path):
    members = webdataset_members(19)  # the last one is gone
    members[9:12] = [(f"{3:09d}.{name.rpartition('.')[2]}", content) for name, content in members[15:18]]
    write_tar(tmp_path / "in/a.tar", members)
    made = scoring_of(done)
    assert made.lost == {"gone": 1, "changed": 1}
    assert [row["index"] for row in rows_of(done, "a") if row["re_clip_score"] is None] == [2, 3, 4, 19]
    assert made.totals.counts == {"gone": 1, "changed": 1, "even": 11}


def test_an_input_that_is_gone_is_reported_and_the_others_go_on(done, tmp_path):
    (tmp_path / "in/a.tar").unlink()
    made = scoring_of(done)
    assert list(made.failed) == ["a"]
    assert "in/a.tar is not there" in made.failed["a"]
    assert made.num_shards == 2


def test_an_input_without_any_image_that_was_captioned_is_no_input(done, tmp_path):
    write_tar(tmp_path / "in/b.tar", webdataset_members(3, first=50))
    made = scoring_of(done)
    assert made.failed.keys() == {"b"}
    assert "has none of its images as they were captioned" in made.failed["b"]
    assert not path_of(done.output, done.output.scores("clip", "b")).exists()


def test_captions_that_are_damaged_are_reported(done):
    path = path_of(done.output, done.output.data("b"))
    path.write_bytes(path.read_bytes()[:-9] + b"damaged!!")
    made = scoring_of(done)
    assert "its captions have changed since they were written" in made.failed["b"]
    assert made.num_shards == 2


def test_inputs_that_were_moved_are_given_again(done, tmp_path):
    (tmp_path / "in").rename(tmp_path / "there")
    made = scoring_of(done, patterns=[str(tmp_path / "there/b.tar")])
    assert (made.num_shards, made.failed) == (1, {})


class _Stalling(LengthScorer):
    """Nothing comes from the first shard after its first image."""

    def score(self, pairs, expected=0):
        if not self.num_calls:
            self.num_calls += 1
            next(iter(pairs))
            raise StalledError("nothing came")
        yield from super().score(pairs, expected)


def test_a_shard_whose_reading_hangs_is_given_up(done):
    made = scoring_of(done, _Stalling())
    assert made.failed == {"a": "nothing came"}
    assert made.num_shards == 2
    assert made.scorer.num_calls == 2


def test_what_ends_the_work_ends_it(done):
    def stop():
        raise KeyboardInterrupt

    made = Scoring(JoinedOutput.open(done.output), LengthScorer(), check=stop)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert not made.num_shards


def test_a_sample_reads_and_scores_only_its_images(done):
    scorer, sample = LengthScorer(), Sample(12, seed=3)
    made = Scoring(JoinedOutput.open(done.output), scorer, sample=sample)
    made.run()
    captioned = {shard.name: [i for i in range(20) if i not in (2, 4)] for shard in done.shards[:1]}
    captioned |= {shard.name: list(range(number)) for shard, number in zip(done.shards[1:], (3, 2), strict=True)}
    chosen = {
        name: [i for i, is_in in zip(rows, sample.chosen(name, np.array(rows), 23), strict=True) if is_in]
        for name, rows in captioned.items()
    }
    assert 0 < sum(map(len, chosen.values())) < 23
    assert [(shard, index) for shard, index, _ in scorer.seen] == [(n, i) for n, rows in chosen.items() for i in rows]
    assert scorer.expected == 12
    for name, rows in chosen.items():
        assert [row["index"] for row in rows_of(done, name) if row["re_clip_score"] is not None] == rows
