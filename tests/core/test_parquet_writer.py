"""The core's Parquet writer, read back by pyarrow."""

import gc
import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.guard import GUARD_S, threads, wait_for_end_of_new

from recap_fast.arrow_core import core

SCHEMA = pa.schema(
    [
        *(pa.field("text", pa.string()), pa.field("count", pa.int64()), pa.field("score", pa.float64())),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("flags", pa.list_(pa.field("element", pa.string()))),
    ],
    metadata={"source": "a test"},
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            "count": st.none() | st.integers(-(2**63), 2**63 - 1),
            "score": st.none() | st.floats(allow_nan=False),
            "index": st.integers(-(2**31), 2**31 - 1),
            "flags": st.none() | st.lists(st.sampled_from(["loop", "cut", "a flag of another length"]), max_size=4),
        }
    )
)
NUMBERS = pa.schema([("n", pa.int64())])


def numbers(start: int, stop: int) -> pa.RecordBatch:
    """Numbers in a buffer that belongs to numpy, so that to free it takes the GIL."""
    return pa.record_batch([pa.array(np.arange(start, stop))], schema=NUMBERS)


def write_numbers(writer: core.ParquetWriter, num_batches: int) -> None:
    """Batches of ten numbers each, counting on."""
    for i in range(num_batches):
        writer.write(numbers(10 * i, 10 * i + 10))


def row_groups(batches: list[pa.RecordBatch], max_rows: int, max_bytes: int) -> list[int]:
    """How many rows each row group is to have: as many as fit, one at least."""
    groups: list[int] = []
    rows = size = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            most = min(batch.num_rows - start, max_rows - rows)
            fitting = [n for n in range(1, most + 1) if size + batch.slice(start, n).nbytes <= max_bytes]
            if count := max(fitting, default=0 if rows else 1):
                rows, size, start = rows + count, size + batch.slice(start, count).nbytes, start + count
            else:
                groups.append(rows)
                rows = size = 0
    return [*groups, rows] if rows else groups


def interrupted(writer: core.ParquetWriter) -> None:
    """Ctrl-C in the middle of the work."""
    write_numbers(writer, 10)
    raise KeyboardInterrupt


@given(batches=st.lists(ROWS, max_size=7), max_rows=st.integers(1, 7), max_bytes=st.integers(1, 400))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[dict]], max_rows: int, max_bytes: int
):
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    given_batches = [pa.RecordBatch.from_pylist(rows, schema=SCHEMA) for rows in batches]
    with core.ParquetWriter(path, SCHEMA, max_row_group_rows=max_rows, max_row_group_bytes=max_bytes) as writer:
        for batch in given_batches:
            writer.write(batch)
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert table.to_pylist() == [row for rows in batches for row in rows]
    metadata = pq.read_metadata(path)
    written = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert written == row_groups(given_batches, max_rows, max_bytes)


def test_rows_that_are_larger_than_a_row_group_have_one_each_and_every_reader_sees_them(tmp_path: Path):
    path, schema = tmp_path / "a.parquet", pa.schema([("text", pa.string())])
    texts = ["a" * 10, "b" * 5000, None, "c" * 2000, "d" * 2000, "e" * 2000, ""]
    with core.ParquetWriter(path, schema, max_row_group_bytes=4096) as writer:
        writer.write(pa.record_batch([texts], schema=schema).slice(1))  # its buffers begin before
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [1, 3, 2]
    assert max(group.total_byte_size for group in groups[1:]) < 4300, "what the Hub viewer counts, uncompressed"
    assert pq.read_table(path)["text"].to_pylist() == texts[1:]
    assert [row[0] for row in duckdb.sql(f"select text from '{path}'").fetchall()] == texts[1:]
    assert datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))["text"][:] == texts[1:]


def test_the_file_has_zstd_statistics_and_metadata(tmp_path: Path):
    path = tmp_path / "a.parquet"
    rows = [{"text": t, "count": n, "score": n / 2, "index": n} for n, t in enumerate(["b", None, "a", "c"])]
    with core.ParquetWriter(path, SCHEMA, key_value_metadata={"engine": "recap-tiny", "Größe": "ß"}) as writer:
        writer.write(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    metadata = pq.read_metadata(path)
    assert metadata.metadata[b"engine"] == b"recap-tiny"
    assert metadata.metadata["Größe".encode()] == "ß".encode()
    columns = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    statistics = columns[0].statistics
    assert (statistics.min, statistics.max, statistics.null_count) == ("a", "c", 1)
    assert [(c.statistics.min, c.statistics.max) for c in columns[1:4]] == [(0, 3), (0.0, 1.5), (0, 3)]


def test_many_batches_pass_through_the_queue_in_order(tmp_path: Path):
    path = tmp_path / "a.parquet"
    with core.ParquetWriter(path, NUMBERS, max_row_group_rows=1000) as writer:
        write_numbers(writer, 2000)
    assert pq.read_metadata(path).num_row_groups == 20
    np.testing.assert_array_equal(pq.read_table(path)["n"].to_numpy(), np.arange(20_000))


def test_several_threads_may_write(tmp_path: Path):
    path = tmp_path / "a.parquet"
    with core.ParquetWriter(path, NUMBERS) as writer:
        threads = [
            threading.Thread(target=lambda k=k: [writer.write(numbers(i, i + 1)) for i in range(k, 900, 3)])
            for k in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(pq.read_table(path)["n"].to_pylist()) == list(range(900))


def test_close_may_be_repeated_and_ends_the_thread(tmp_path: Path):
    before = threads()
    writer = core.ParquetWriter(tmp_path / "a.parquet", NUMBERS)
    assert len(threads() - before) == 1
    writer.write(numbers(0, 5))
    writer.close()
    writer.close()
    wait_for_end_of_new(before)
    with pytest.raises(ValueError, match=r"the writer of .*a\.parquet is closed"):
        writer.write(numbers(0, 5))


def test_a_path_that_cannot_be_opened_is_an_os_error_that_names_it(tmp_path: Path):
    with pytest.raises(OSError, match=r"cannot write .*/nowhere/a\.parquet: open: No such file or directory"):
        core.ParquetWriter(tmp_path / "nowhere" / "a.parquet", NUMBERS)


@contextmanager
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 4 kB. No fixture: pytest's own output may go to a file too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_error_of_the_thread_comes_at_the_next_call(tmp_path: Path):
    before = threads()
    message = r"cannot write .*/a\.parquet: .*File too large"
    with small_files():
        writer = core.ParquetWriter(tmp_path / "a.parquet", NUMBERS, max_row_group_rows=10)
        with pytest.raises(OSError, match=message):
            write_numbers(writer, 1000)
        for call in (lambda: writer.write(numbers(0, 1)), writer.close):
            with pytest.raises(OSError, match=message):
                call()
    wait_for_end_of_new(before)


def test_an_error_of_the_last_row_group_comes_from_close(tmp_path: Path):
    with (
        small_files(),
        pytest.raises(OSError, match=r"cannot write .*/a\.parquet: .*File too large"),
        core.ParquetWriter(tmp_path / "a.parquet", NUMBERS) as writer,
    ):
        writer.write(numbers(0, 10_000))


def test_a_full_disk_is_named():
    with pytest.raises(OSError, match=r"cannot write /dev/full: .*No space left on device"):
        core.ParquetWriter("/dev/full", NUMBERS)


def test_close_brings_the_file_to_the_disk():
    """/dev/null takes everything but fsync, so an error tells that fsync was called."""
    writer = core.ParquetWriter("/dev/null", NUMBERS)
    with pytest.raises(OSError, match="cannot write /dev/null: fsync: Invalid argument"):
        writer.close()


def test_the_file_goes_on_after_batches_that_are_refused(tmp_path: Path):
    path, schema = tmp_path / "a.parquet", pa.schema([("text", pa.string())])
    offsets = pa.py_buffer(np.array([0, 1 << 30, 2], np.int32))
    broken = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"ab"))
    with core.ParquetWriter(path, schema) as writer:
        with pytest.raises(ValueError, match=r"(?s)a batch for .*a\.parquet has the schema.*n: int64.*text: string"):
            writer.write(numbers(0, 1))
        with pytest.raises(AttributeError, match="__arrow_c_array__"):
            writer.write([1, 2])
        with pytest.raises(ValueError, match="offset"):
            writer.write(pa.record_batch([broken], schema=schema))
        writer.write(pa.record_batch([pa.array(["a"])], schema=schema))
    assert pq.read_table(path).to_pylist() == [{"text": "a"}]


@pytest.mark.parametrize("limit", ["max_row_group_rows", "max_row_group_bytes"])
def test_row_groups_without_rows_are_refused(tmp_path: Path, limit: str):
    with pytest.raises(ValueError, match=f"{limit} is below 1"):
        core.ParquetWriter(tmp_path / "a.parquet", NUMBERS, **{limit: 0})
    assert not (tmp_path / "a.parquet").exists()


def test_an_interrupted_block_leaves_no_thread_and_no_whole_file(tmp_path: Path):
    path, before = tmp_path / "a.parquet", threads()
    with pytest.raises(KeyboardInterrupt), core.ParquetWriter(path, NUMBERS, max_row_group_rows=5) as writer:
        interrupted(writer)
    wait_for_end_of_new(before)
    with pytest.raises(pa.ArrowInvalid, match="Parquet magic bytes not found in footer"):
        pq.read_metadata(path)
    with pytest.raises(ValueError, match=r"the writer of .*a\.parquet was aborted"):
        writer.close()


def test_a_writer_dropped_without_close_leaves_no_thread(tmp_path: Path):
    before = threads()
    for i in range(20):
        writer = core.ParquetWriter(tmp_path / f"{i}.parquet", NUMBERS)
        for k in range(8):
            writer.write(numbers(0, 1000 * k))
        del writer
    gc.collect()
    wait_for_end_of_new(before)


def test_python_may_end_with_writers_open(tmp_path: Path):
    """Their threads still hold batches, and to free these takes the GIL of an interpreter that is going away.

    Without the writers' atexit hook this aborts about every second time.
    """
    script = f"""
        import importlib.util
        import numpy as np, pyarrow as pa
        spec = importlib.util.spec_from_file_location("recap_fast._core", {core.__file__!r})
        core = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(core)
        schema = pa.schema([("n", pa.int64())])
        writers = [core.ParquetWriter({str(tmp_path)!r} + f"/{{i}}.parquet", schema) for i in range(128)]
        queues = [[pa.record_batch([np.arange(200)], schema=schema) for _ in range(5)] for _ in writers]
        for writer, queue in zip(writers, queues):
            while queue:
                writer.write(queue.pop())
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_gil_is_released(tmp_path: Path, assert_releases_gil: Callable[..., None]):
    values = np.random.default_rng(0).integers(0, 1 << 60, 100_000)
    batch = pa.record_batch([pa.array(values)], schema=NUMBERS)
    writers: list[core.ParquetWriter] = []

    def full_queue() -> tuple[core.ParquetWriter, object]:
        """The batch is exported before: pyarrow lets go of the GIL for that."""
        writer = core.ParquetWriter(tmp_path / f"{len(writers)}.parquet", NUMBERS)
        writers.append(writer)
        for _ in range(5):  # one is being written, four wait
            writer.write(batch)
        capsules = batch.__arrow_c_array__()
        return writer, SimpleNamespace(__arrow_c_array__=lambda *_: capsules)

    assert_releases_gil(lambda writer, exported: writer.write(exported), full_queue)
    assert_releases_gil(lambda writer, _: writer.close(), full_queue)
    for writer in writers:
        writer.abort()
