from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import share
from support.fake_runs import detokenize
from support.finished_rows import finished

from recap_fast.errors import ShardError
from recap_fast.write import merge
from recap_fast.write.captions import make_batches
from recap_fast.write.merge import merge_rows
from recap_fast.write.schema import SCHEMA


def batch(indices, tag):
    rows = [finished(i, f"{i} {tag}") for i in sorted(indices)]
    return next(make_batches(rows, detokenize), pa.RecordBatch.from_pylist([], schema=SCHEMA))


def write(path: Path, indices, tag) -> Path:
    pq.write_table(pa.Table.from_batches([batch(indices, tag)], SCHEMA), path, row_group_size=3)
    return path


def merged(files, new, batch_rows=1000, step_bytes=merge.STEP_BYTES):
    batches = list(merge_rows(files, new, batch_rows, step_bytes))
    return [(r["index"], r["re_caption"]) for b in batches for r in b.to_pylist()]


sets = st.lists(st.frozensets(st.integers(0, 30), max_size=20), max_size=5)


@share(0.6)
@given(sets, st.frozensets(st.integers(0, 30)), st.integers(1, 5), st.integers(1, 4), st.integers(1, 2000))
def test_the_union_of_any_files_and_new_rows_is_that_of_dictionaries(files, new, batch_rows, new_rows, step_bytes):
    expected = {}
    for number, indices in enumerate([*files, new]):
        expected.update({i: f"{i} {number}" for i in indices})
    rows = sorted(new)
    parts = [batch(rows[i : i + new_rows], len(files)) for i in range(0, len(rows), new_rows)]
    with TemporaryDirectory() as folder:
        paths = [write(Path(folder, f"{n}.parquet"), indices, n) for n, indices in enumerate(files)]
        assert merged(paths, parts, batch_rows, step_bytes) == sorted(expected.items())


def test_no_batch_is_larger_than_those_of_all_sources_together(tmp_path):
    even, odd = write(tmp_path / "a", range(0, 1000, 2), "a"), write(tmp_path / "b", range(1, 1000, 2), "b")
    sizes = [b.num_rows for b in merge_rows([even, odd], [], batch_rows=50)]
    assert max(sizes) <= 100
    assert sum(sizes) == 1000


def test_a_file_that_is_gone_is_an_error_and_not_a_gap(tmp_path):
    there = write(tmp_path / "a", range(3), "a")
    with pytest.raises(FileNotFoundError, match="gone"):
        merged([there, tmp_path / "gone"], [])


def test_no_batch_has_more_bytes_than_a_step_or_more_than_one_row(tmp_path):
    even, odd = write(tmp_path / "a", range(0, 200, 2), "a" * 1000), write(tmp_path / "b", range(1, 200, 2), "b" * 1000)
    again = write(tmp_path / "c", range(0, 200, 5), "c" * 3000)
    batches = list(merge_rows([even, odd, again], [], step_bytes=8000))
    assert [i for b in batches for i in b["index"].to_pylist()] == list(range(200))
    assert max(b.nbytes for b in batches if b.num_rows > 1) <= 8000
    assert max(b.num_rows for b in batches) > 2


def test_a_file_is_open_from_its_first_row_to_its_last(tmp_path, monkeypatch):
    files = [write(tmp_path / str(n), range(10 * n, 10 * n + 12), str(n)) for n in range(20)]
    open_files, most = set(), [0]
    read = merge._read

    def counted(path, *given):
        open_files.add(path)
        most.append(len(open_files))
        yield from read(path, *given)
        open_files.remove(path)

    monkeypatch.setattr(merge, "_read", counted)
    rows = merged(files[::-1], [batch([5, 250], "new")], batch_rows=4)
    assert [index for index, _ in rows] == [*range(202), 250]
    assert rows[5] == (5, "5 new")
    assert rows[10] == (10, "10 0"), "the file that was given last"
    assert max(most) <= 3


def test_a_file_that_cannot_be_read_is_an_error_of_the_shard(tmp_path):
    path = write(tmp_path / "a", range(300), "x" * 50)
    content = bytearray(path.read_bytes())
    content[100:600] = bytes(500)
    path.write_bytes(content)
    with pytest.raises(ShardError, match=f"{path} cannot be read: "):
        merged([path], [])


def test_files_with_other_metadata_are_merged_all_the_same(tmp_path):
    path = write(tmp_path / "a", range(3), "a")
    pq.write_table(pq.read_table(path).replace_schema_metadata({"recap_fast.input": "1:2"}), path)
    assert merged([path], [batch([1, 3], "b")]) == [(0, "0 a"), (1, "1 b"), (2, "2 a"), (3, "3 b")]
