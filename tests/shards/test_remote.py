import io
import tempfile

import numpy as np
import pytest
from shard_files import tar_bytes, webdataset_members

from recap_fast.errors import ConfigError, ShardError
from recap_fast.records import Shard
from recap_fast.shards import remote
from recap_fast.shards.reader import open_shard
from recap_fast.shards.remote import absolute, file_system, spool

CONTENT = tar_bytes(webdataset_members(4))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(remote, "CHUNK_BYTES", 1000)


def dropping(memory, monkeypatch, *, after, times, seekable=True):
    """Makes files of memory:// break off after so many bytes, so many times."""
    opened = []
    real = type(memory).open

    def open_(self, path, *args, **options):
        file = real(self, path, "rb")
        opened.append(path)
        if len(opened) > times:
            return file

        class Dropping:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def seek(self, offset):
                if offset and not seekable:
                    raise ValueError("Cannot seek streaming HTTP file")
                file.seek(offset)

            def read(self, size):
                if file.tell() >= after * len(opened):
                    raise ConnectionResetError("dropped")
                return file.read(size)

        return Dropping()

    monkeypatch.setattr(type(memory), "open", open_)
    return opened


def test_a_remote_tar_is_read_and_its_spool_is_gone(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory.pipe("/b/0.tar", CONTENT)
    with open_shard(Shard("0", "memory://b/0.tar", "tar")) as reader:
        assert [s.org_caption for s in reader.samples(np.empty(0, np.int64))] == [f"alt {i}" for i in range(4)]
        assert reader.identity.size_bytes == len(CONTENT)
    assert list(tmp_path.iterdir()) == []


def test_a_dropped_connection_goes_on_where_it_broke(memory, monkeypatch, caplog):
    memory.pipe("/b/0.tar", CONTENT)
    opened = dropping(memory, monkeypatch, after=2000, times=3)
    with spool("memory://b/0.tar") as file:
        assert file.read() == CONTENT
    assert len(opened) == 4
    assert "dropped" in caplog.text


def test_a_server_without_ranges_starts_again(memory, monkeypatch):
    memory.pipe("/b/0.tar", CONTENT)
    dropping(memory, monkeypatch, after=2000, times=2, seekable=False)
    with spool("memory://b/0.tar") as file:
        assert file.read() == CONTENT


def test_it_gives_up_where_nothing_comes(memory, monkeypatch):
    memory.pipe("/b/0.tar", CONTENT)
    opened = dropping(memory, monkeypatch, after=0, times=99)
    with pytest.raises(ShardError, match="cannot be read, tried 5 times: ConnectionResetError"):
        spool("memory://b/0.tar")
    assert len(opened) == 5


def test_an_early_end_is_noticed(memory, monkeypatch):
    memory.pipe("/b/0.tar", CONTENT)
    real = type(memory).info
    monkeypatch.setattr(type(memory), "info", lambda self, path, **o: {**real(self, path), "size": len(CONTENT) + 1})
    with pytest.raises(ShardError, match=f"the connection ended after {len(CONTENT):,} bytes"):
        spool("memory://b/0.tar")


def test_a_missing_file_is_not_tried_again(memory):
    with pytest.raises(ShardError, match=r"memory://b/gone\.tar is not there"):
        open_shard(Shard("0", "memory://b/gone.tar", "tar"))


def test_a_full_disk_says_what_to_do(memory, monkeypatch):
    memory.pipe("/b/0.tar", CONTENT)
    full = io.FileIO("/dev/full", "wb")  # every write to it fails as on a full disk
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: full)
    with pytest.raises(ShardError, match=r"No space left on device.*set TMPDIR to a larger disk"):
        spool("memory://b/0.tar")
    assert full.closed


def test_a_missing_package_and_an_unknown_protocol_are_explained(monkeypatch):
    import fsspec

    def missing(url):
        raise ImportError("Install s3fs to access S3")

    with pytest.raises(ConfigError, match="nosuch://x is of a kind that fsspec does not know"):
        file_system("nosuch://x")
    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ConfigError, match=r"s3://b/x needs .* not installed: run `pip install 'recap-fast\[s3\]'`"):
        file_system("s3://b/x")
    with pytest.raises(ConfigError, match=r"run `pip install aiohttp`"):
        file_system("https://b/x")


@pytest.mark.parametrize(
    ("address", "expected"),
    [("/a/../b/", "/b"), ("file:///a/b", "/a/b"), ("s3://b/a/", "s3://b/a"), ("memory://", "memory://")],
)
def test_absolute(address, expected):
    assert absolute(address) == expected
