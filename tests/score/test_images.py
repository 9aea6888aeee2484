from collections import Counter

import pyarrow.parquet as pq
import pytest
from support.shard_files import write_rows

from recap_fast.errors import RecapError
from recap_fast.records import Sample
from recap_fast.score.images import Captions, open_captions
from recap_fast.write.output_folder import OutputFolder


class Reader:
    """Has these samples; says which were left out."""

    num_samples = 6
    problem = None

    def __init__(self, samples):
        self._samples = samples

    def samples(self, done):
        self.left_out = done.tolist()
        return iter(self._samples)


def sample(index, image=b"x", **fields):
    return Sample(shard="a", index=index, key=str(index), image=image, sha256=f"{index:064x}", **fields)


@pytest.fixture
def captions(tmp_path):
    write_rows(tmp_path / "a.parquet", "a", range(6), [sample(i) for i in range(6)], failed=[1])
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        yield Captions("a", file)


def test_rows_stand_beside_their_images(captions):
    reader, notes = Reader([sample(i, bytes([i])) for i in (0, 2, 3, 4, 5)]), Counter()
    pairs = list(captions.pairs(reader, notes))
    assert [(pair.shard, pair.index, pair.image, pair.re_caption) for pair in pairs] == [
        ("a", i, bytes([i]), f"caption {i}") for i in (0, 2, 3, 4, 5)
    ]
    assert reader.left_out == [1]
    assert not notes


def test_images_that_are_not_to_be_had_are_counted(captions):
    other = Sample(shard="a", index=2, key="2", image=b"y", sha256="f" * 64)
    given = [sample(0), other, sample(3, b"", status="unreadable"), sample(4, b"", status="missing_image")]
    notes = Counter()
    assert [pair.index for pair in captions.pairs(Reader(given), notes)] == [0]
    assert notes == {"changed": 1, "unreadable": 1, "gone": 2}


def test_what_lies_behind_the_last_row_is_no_image_of_it(captions):
    given, notes = [sample(9)], Counter()
    assert list(captions.pairs(Reader(given), notes)) == []
    assert notes == {"gone": 5}


def test_what_a_damaged_input_lacks_is_looked_for_again(captions):
    reader, notes = Reader([sample(0)]), Counter()
    reader.problem = "cut off at byte 200"
    assert [pair.index for pair in captions.pairs(reader, notes)] == [0]
    assert notes == {"unreadable": 4}


def test_captions_of_another_version_are_refused(tmp_path):
    write_rows(tmp_path / "data/a.parquet", "a", range(3))
    with (
        pytest.raises(RecapError, match="have changed since they were written"),
        open_captions(OutputFolder.at(tmp_path), "a", "0"),
    ):
        pass
