import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import share
from support.fake_runs import detokenize
from support.finished_rows import finished, output_file
from support.runs import indices

from recap_fast.errors import OutputGoneError
from recap_fast.records import Identity, Shard
from recap_fast.write import shard_writer
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.shard_writer import ShardWriter
from recap_fast.write.stretches import Kept
from recap_fast.write.stretches import stretches as list_stretches

SHARD = Shard("a/0", "/in/a/0.tar", "tar")


@pytest.fixture
def stretch(monkeypatch):
    """Stretches of 5 rows."""
    monkeypatch.setattr(shard_writer, "STRETCH_ROWS", 5)


def make_writer(folder, **options) -> ShardWriter:
    return ShardWriter(OutputFolder.at(folder), SHARD, Identity(12, "34"), detokenize, **options)


@pytest.fixture
def writer(tmp_path) -> ShardWriter:
    return make_writer(tmp_path)


def add(writer, orders):
    for order in orders:
        writer.add(finished(order))


def stretches(folder) -> list[list[int]]:
    return [indices(folder / stretch.name) for stretch in list_stretches(OutputFolder.at(folder), "a/0")]


def output(folder) -> Path:
    return folder / "data" / "a" / "0.parquet"


def flags_of(folder) -> list[list[str]]:
    return pq.ParquetFile(output(folder)).read()["flags"].to_pylist()


@share(0.3)
@given(order=st.permutations(range(20)), num_kept=st.integers(0, 20))
def test_flags_are_the_same_whatever_the_order_the_stretches_and_the_run(tmp_path_factory, order, num_kept):
    """Rows 0 to 9 have one image, 10 to 14 one caption, and so have 15 to 19. `num_kept` are of an earlier run."""

    def row(index, order=None):
        image = "same" if index < 10 else f"image {index}"
        caption = f"Caption {index}." if index < 10 else "One caption." if index < 15 else "The image shows a cat."
        return finished(index, caption, order=order, sha256=image)

    folder = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "STRETCH_ROWS", 5)
        first = make_writer(folder)
        for index in range(num_kept):
            first.add(row(index))
        first.finish()
        done = np.arange(num_kept)
        writer = make_writer(folder, kept=Kept((output(folder),), done))
        rest = [index for index in order if index >= num_kept]
        for index in rest:
            writer.add(row(index, sorted(rest).index(index)))
        report = writer.finish()
    assert flags_of(folder) == [["placeholder"]] * 10 + [["same_caption"]] * 5 + [["stock_opening", "same_caption"]] * 5
    assert report.flags == {"placeholder": 10, "same_caption": 10, "stock_opening": 5}


def test_a_kept_row_loses_a_flag_that_holds_no_more(tmp_path):
    first = make_writer(tmp_path)
    for index in range(4):
        first.add(finished(index, "One caption", reason="length", sha256=str(index)))
    assert first.finish().flags == {"cut": 4, "same_caption": 4}
    again = make_writer(tmp_path, kept=Kept((output(tmp_path),), np.array([0, 1, 3])))
    again.add(finished(2, "Another.", order=0, sha256="2"))
    assert again.finish().flags == {"cut": 3}
    assert flags_of(tmp_path) == [["cut"], ["cut"], [], ["cut"]]


def test_a_stretch_has_the_flags_of_its_rows_alone(writer, tmp_path, stretch):
    for index in range(6):
        writer.add(finished(index, "One caption", reason="length", sha256=str(index)))
    (name,) = [each.name for each in list_stretches(OutputFolder.at(tmp_path), "a/0")]
    assert pq.ParquetFile(tmp_path / name).read()["flags"].to_pylist() == [["cut"]] * 5


def test_the_prompt_is_looked_for_in_captions(tmp_path):
    writer = make_writer(tmp_path, prompt="Describe this image.")
    writer.add(finished(0, "Describe this image. A cat."))
    assert writer.finish().flags == {"repeats_prompt": 1}


@share(0.3)
@given(order=st.permutations(range(17)))
def test_whatever_the_order_in_the_rows_come_out_in_input_order(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "STRETCH_ROWS", 5)
        writer = make_writer(folder)
        released = [writer.add(finished(2 * o, f"caption {o}", order=o)) for o in order]
        report = writer.finish()
    table = pq.ParquetFile(output(folder)).read()
    assert table["index"].to_pylist() == list(range(0, 34, 2))
    assert table["re_caption"].to_pylist() == [f"caption {o}" for o in range(17)]
    assert sum(num_rows for num_rows, _ in released) == 17 == writer.num_in_order
    assert (report.rows, report.captioned) == (17, 17)
    assert [len(s) for s in stretches(folder)] == [5, 5, 5]


def test_a_sample_is_released_when_all_before_it_are_there(writer):
    rows = [finished(o, metadata="x" * o) for o in (2, 1, 4, 0, 3)]
    released = [writer.add(row) for row in rows]
    size = {row.order: row.text_bytes for row in rows}
    assert released == [(0, 0), (0, 0), (0, 0), (3, size[0] + size[1] + size[2]), (2, size[3] + size[4])]


def test_a_straggler_does_not_keep_finished_rows_from_the_disk(writer, tmp_path, stretch):
    add(writer, range(1, 13))
    assert stretches(tmp_path) == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert writer.num_in_order == 0
    assert writer.add(finished(0))[0] == 13
    writer.finish()
    assert indices(output(tmp_path)) == list(range(13))


def test_a_stretch_is_written_as_it_gets_full_and_not_before(writer, tmp_path, stretch):
    add(writer, range(5))
    assert stretches(tmp_path) == []  # a shard of one stretch is written once
    writer.add(finished(5))
    assert stretches(tmp_path) == [[0, 1, 2, 3, 4]]


def test_a_stretch_is_written_as_it_gets_large(writer, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "STRETCH_BYTES", 10_000)
    sizes = [4000, 4000, 4000, 10, 10, 20_000, 10]
    for order, size in enumerate(sizes):
        writer.add(finished(order, metadata="x" * size))
    assert stretches(tmp_path) == [[0, 1, 2], [3, 4, 5]]
    assert writer.finish().rows == 7


def test_a_file_is_named_by_its_checksum(writer, tmp_path, stretch):
    add(writer, range(11))
    for each in list_stretches(OutputFolder.at(tmp_path), "a/0"):
        path = tmp_path / each.name
        assert output_file(path).sha256.startswith(each.digest)
        assert len(each.digest) == 32
        assert indices(path) == list(range(each.first, each.last + 1))


def test_rows_that_are_given_up_are_released(writer):
    rows = [finished(o, metadata="x" * o) for o in (0, 2, 3)]
    for row in rows:
        writer.add(row)
    assert writer.give_up() == (2, rows[1].text_bytes + rows[2].text_bytes)
    assert writer.give_up() == (0, 0)


def test_no_file_is_written_where_the_output_folder_is_gone(tmp_path):
    def gone():
        raise OutputGoneError("gone")

    writer = make_writer(tmp_path / "out", check_output=gone)
    for write in (writer.flush, writer.finish):
        writer.add(finished(0))
        with pytest.raises(OutputGoneError):
            write()
    assert not (tmp_path / "out").exists()


def test_rows_that_have_waited_for_five_minutes_go_to_disk(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(shard_writer.time, "monotonic", lambda: now[0])
    writer = make_writer(tmp_path)
    writer.flush_if_old()
    writer.add(finished(1))
    now[0] += 200
    writer.add(finished(2))
    writer.flush_if_old()
    assert stretches(tmp_path) == []
    now[0] += 101
    writer.flush_if_old()
    assert stretches(tmp_path) == [[1, 2]]
    now[0] += 1000
    writer.flush_if_old()
    assert stretches(tmp_path) == [[1, 2]]


def test_new_rows_take_the_place_of_kept_ones_and_counts_are_of_all(tmp_path):
    first = make_writer(tmp_path)
    for index, caption in enumerate(["a", None, None, "d"]):
        first.add(finished(index, caption))
    report = first.finish()
    assert (report.rows, report.captioned, report.failed, report.num_tokens) == (4, 2, {"not_an_image": 2}, 4)
    again = make_writer(tmp_path, kept=Kept((output(tmp_path),), np.array([0, 3])))
    again.add(finished(1, "b", order=0))
    again.add(finished(2, None, order=1))
    report = again.finish()
    assert (report.rows, report.captioned, report.failed) == (4, 3, {"not_an_image": 1})
    assert pq.ParquetFile(output(tmp_path)).read()["re_caption"].to_pylist() == ["a", "b", None, "d"]


def test_the_report_names_the_very_file(writer, tmp_path):
    writer.add(finished(0))
    report = writer.finish()
    assert (report.shard, report.status, report.input) == ("a/0", "complete", Identity(12, "34"))
    assert report.output == output_file(output(tmp_path))


def test_row_groups_are_full_however_the_stretches_overlap(writer, tmp_path, stretch):
    order = list(range(40))
    random.Random(0).shuffle(order)
    add(writer, order)
    writer.finish()
    assert indices(output(tmp_path)) == list(range(40))
    assert pq.read_metadata(output(tmp_path)).num_row_groups == 8
