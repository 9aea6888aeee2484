from dataclasses import fields

import pytest
from support.finished_rows import finish
from support.folder_runs import write_images
from support.ledgers import open_ledger
from support.shard_files import webdataset_members, write_table, write_tar

from recap_fast.errors import ConfigError, ShardError
from recap_fast.joined import JoinedOutput
from recap_fast.records import Selection
from recap_fast.write.output_folder import OutputFolder

MARKS = {"engine": "tiny", **{field.name: field.default for field in fields(Selection)}}


@pytest.fixture
def made(tmp_path):
    """The output of two tars and a folder of images, all finished."""
    write_tar(tmp_path / "in/a.tar", webdataset_members(5))
    write_tar(tmp_path / "in/b.tar", webdataset_members(3, first=5))
    write_images(tmp_path / "in/photos", ["x.jpg", "y.jpg"])
    ledger = open_ledger(tmp_path / "out", tmp_path / "in", marks=MARKS)
    for shard in ledger.shards:
        finish(ledger, shard)
    return ledger.output


def pairs(joined, number, wanted=None):
    return [
        (row["key"], sample.key, sample.index)
        for row, sample in joined.pairs(joined.shards[number], ["key", "re_caption"], wanted)
    ]


def test_rows_stand_beside_the_samples_that_they_were_made_of(made):
    joined = JoinedOutput.open(made)
    assert [shard.name for shard in joined.shards] == list(joined.run.shards)
    assert pairs(joined, 0) == [(f"{i:09d}", f"{i:09d}", i) for i in range(5)]
    assert pairs(joined, 2) == [("photos/x", "photos/x", 0), ("photos/y", "photos/y", 1)]


def test_only_the_wanted_ones_are_read(made):
    joined = JoinedOutput.open(made)
    assert [index for _, _, index in pairs(joined, 0, {1, 3})] == [1, 3]


def test_some_of_the_inputs_are_given_again(made, tmp_path):
    joined = JoinedOutput.open(made, [str(tmp_path / "in/b.tar")])
    assert [shard.name for shard in joined.shards] == ["b"]
    assert len(pairs(joined, 0)) == 3


def test_moved_inputs_are_followed(made, tmp_path):
    (tmp_path / "in").rename(tmp_path / "there")
    assert len(pairs(JoinedOutput.open(made, relocate=[f"{tmp_path}/in={tmp_path}/there"]), 0)) == 5
    assert len(pairs(JoinedOutput.open(made, [str(tmp_path / "there")]), 0)) == 5
    with pytest.raises(ShardError, match=r"in/a\.tar is not there"):
        pairs(JoinedOutput.open(made), 0)


def test_files_are_told_by_their_suffix_in_any_case(tmp_path):
    write_tar(tmp_path / "in/a.TAR", webdataset_members(2))
    write_table(tmp_path / "in/b.PARQUET", {"key": ["x", "y"], "jpg": [b"one", b"two"]})
    ledger = open_ledger(tmp_path / "out", tmp_path / "in", marks=MARKS)
    for shard in ledger.shards:
        finish(ledger, shard)
    joined = JoinedOutput.open(ledger.output)
    assert [sample.image for _, sample in joined.pairs(joined.shards[1], ["key"])] == [b"one", b"two"]
    assert joined.shards == ledger.shards


def test_another_image_in_the_place_of_one_is_refused(made, tmp_path):
    members = webdataset_members(5)
    members[6:9] = [(f"{2:09d}.{name.rpartition('.')[2]}", content) for name, content in members[9:12]]
    write_tar(tmp_path / "in/a.tar", members)
    with pytest.raises(ShardError, match=r"a\.tar has another image at index 2 than the one that was captioned"):
        pairs(JoinedOutput.open(made), 0)


def test_an_image_that_is_gone_is_refused(made, tmp_path):
    write_tar(tmp_path / "in/a.tar", webdataset_members(4))
    with pytest.raises(ShardError, match=r"a\.tar has no image 4 any more"):
        pairs(JoinedOutput.open(made), 0)


def test_what_is_no_output_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no run\.json"):
        JoinedOutput.open(OutputFolder.at(tmp_path))
