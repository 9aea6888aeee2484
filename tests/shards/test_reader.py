import dataclasses
import subprocess
import sys
import threading

import numpy as np
import pytest
from support.fake_runs import FakeRun, captions, expected_captions, write_shards
from support.guard import GUARD_S, guarded, wait_until
from support.shard_files import webdataset_members, write_table, write_tar

from recap_fast.records import Shard
from recap_fast.shards import remote
from recap_fast.shards.expand import expand
from recap_fast.shards.identity import identity
from recap_fast.shards.reader import open_shard


@pytest.fixture
def shards(tmp_path):
    """The same three samples as a tar, as a Parquet file and as a folder."""
    members = webdataset_members(3)
    write_tar(tmp_path / "tars" / "t.tar", members)
    images = [content for name, content in members if name.endswith("jpg")]
    write_table(tmp_path / "tables" / "p.parquet", {"jpg": images, "caption": [f"alt {i}" for i in range(3)]})
    (tmp_path / "photos").mkdir()
    for name, content in members:
        (tmp_path / "photos" / name).write_bytes(content)
    return expand([str(tmp_path / name) for name in ("tars", "tables", "photos")]).shards


def test_all_kinds_of_shards_give_the_same_samples(shards):
    assert [(shard.name, shard.kind) for shard in shards] == [
        ("tars/t", "tar"),
        ("tables/p", "parquet"),
        ("photos/00000", "folder"),
    ]
    contents = []
    for shard in shards:
        with open_shard(shard) as reader:
            assert (reader.num_samples, reader.problem, reader.identity) == (3, None, identity(shard))
            samples = list(reader.samples(np.array([1])))
        assert {sample.shard for sample in samples} == {shard.name}
        contents.append([(sample.index, sample.image, sample.org_caption) for sample in samples])
    assert contents[0] == contents[1] == contents[2]
    assert [index for index, _, _ in contents[0]] == [0, 2]


def test_a_reader_that_fails_to_open_leaves_no_file_open(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"garbage" * 100)
    # with -W error an unclosed file is a ResourceWarning on stderr
    code = (
        "from recap_fast.shards.reader import open_shard\nfrom recap_fast.records import Shard\n"
        f"try: open_shard(Shard('x', {str(tmp_path / 'x.tar')!r}, 'tar'))\nexcept Exception as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert "x.tar is no tar" in result.stdout
    assert result.stderr == ""


def test_heavy_libraries_are_not_loaded_for_tars(tmp_path):
    modules = ("shards.reader", "shards.expand", "write.ledger", "write.verify")
    code = f"import sys, {', '.join(f'recap_fast.{module}' for module in modules)}\n"
    code += "print(sorted({'pyarrow', 'fsspec', 'torch', 'aiohttp'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_an_unknown_sample_index_in_done_is_no_trouble(shards):
    for shard in shards:
        with open_shard(Shard(shard.name, shard.url, shard.kind, shard.files)) as reader:
            assert [sample.index for sample in reader.samples(np.array([0, 7]))] == [1, 2]


def test_draining_does_not_wait_for_a_remote_tar_and_leaves_it_as_not_begun(tmp_path, memory, monkeypatch):
    write_shards(tmp_path / "in", [4, 4])
    memory.pipe("/b/1.tar", (tmp_path / "in" / "00001.tar").read_bytes())
    monkeypatch.setattr(remote, "CHUNK_BYTES", 10)
    real, spooling = remote._write, threading.Event()
    asked = []

    def until_the_end(local, chunk):
        spooling.set()
        wait_until(asked[-1])
        real(local, chunk)

    monkeypatch.setattr(remote, "_write", until_the_end)
    run = FakeRun(tmp_path / "in", tmp_path / "out")

    def open_one_remotely(shard, should_stop):
        asked.append(should_stop)
        url = "memory://b/1.tar" if shard.name == "00001" else shard.url
        return open_shard(dataclasses.replace(shard, url=url), should_stop=should_stop)

    run.open_shard = open_one_remotely
    pipeline = run.pipeline()

    def drain():
        spooling.wait()
        wait_until(lambda: run.ledger.record("00000") is not None)
        assert not asked[-1]()
        pipeline.drain(GUARD_S)

    thread = threading.Thread(target=drain)
    thread.start()
    reports = guarded(lambda: pipeline.run(run.pending))
    thread.join()
    assert asked[-1]()
    assert [(report.shard, report.status) for report in reports] == [("00000", "complete")]
    assert run.ledger.record("00001") is None
    assert [(pending.shard.name, pending.reason) for pending in run.ledger.pending()] == [("00001", "new")]
    FakeRun(tmp_path / "in", tmp_path / "out").run()
    assert captions(tmp_path / "out") == expected_captions(tmp_path / "in", [4, 4])
