import io
import shutil
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
from support.shard_files import tar_bytes, webdataset_members

from recap_fast.errors import ConfigError, ShardError, StoppedError
from recap_fast.records import Shard
from recap_fast.shards import remote
from recap_fast.shards.reader import open_shard
from recap_fast.shards.remote import absolute, file_system, spool

CONTENT = tar_bytes(webdataset_members(4))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(remote, "CHUNK_BYTES", 1000)


@pytest.fixture(autouse=True)
def memory(memory):
    """With one tar in it."""
    memory.pipe("/b/0.tar", CONTENT)
    return memory


def content():
    with spool("memory://b/0.tar") as file:
        return file.read()


def dropping(memory, monkeypatch, *, after, times, seekable=True):
    """Makes the tar of memory:// break off after so many bytes, so many times."""
    opened = []

    class Dropping(io.BytesIO):
        def seek(self, offset):
            if offset and not seekable:
                raise ValueError("Cannot seek streaming HTTP file")
            super().seek(offset)

        def read(self, size):
            if self.tell() >= after * len(opened):
                raise ConnectionResetError("dropped")
            return super().read(size)

    def open_(self, path, *_, **__):
        opened.append(path)
        return io.BytesIO(CONTENT) if len(opened) > times else Dropping(CONTENT)

    monkeypatch.setattr(type(memory), "open", open_)
    return opened


def claim_size(memory, monkeypatch, size):
    real = type(memory).info
    monkeypatch.setattr(type(memory), "info", lambda self, path, **_: {**real(self, path), "size": size})


def test_a_remote_tar_is_read_and_its_spool_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_shard(Shard("0", "memory://b/0.tar", "tar")) as reader:
        assert [s.org_caption for s in reader.samples(np.empty(0, np.int64))] == [f"alt {i}" for i in range(4)]
        assert reader.identity.size_bytes == len(CONTENT)
    assert list(tmp_path.iterdir()) == []


def test_a_dropped_connection_goes_on_where_it_broke(memory, monkeypatch, caplog):
    opened = dropping(memory, monkeypatch, after=2000, times=6)
    assert content() == CONTENT
    assert len(opened) == 7
    assert "dropped" in caplog.text


def test_a_server_without_ranges_starts_again(memory, monkeypatch):
    dropping(memory, monkeypatch, after=2000, times=2, seekable=False)
    assert content() == CONTENT


def test_it_gives_up_where_nothing_comes(memory, monkeypatch):
    opened = dropping(memory, monkeypatch, after=0, times=99)
    with pytest.raises(ShardError, match="cannot be read, tried 5 times: ConnectionResetError"):
        spool("memory://b/0.tar")
    assert len(opened) == 5


def test_an_early_end_is_noticed(memory, monkeypatch):
    claim_size(memory, monkeypatch, len(CONTENT) + 1)
    with pytest.raises(ShardError, match=f"the connection ended after {len(CONTENT):,} bytes"):
        spool("memory://b/0.tar")


def test_a_missing_file_is_not_tried_again():
    with pytest.raises(ShardError, match="cannot be read: FileNotFoundError"):
        spool("memory://b/gone.tar")


def test_a_full_disk_says_what_to_do(monkeypatch):
    full = io.FileIO("/dev/full", "wb")  # every write to it fails as on a full disk
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: full)
    with pytest.raises(ShardError, match=r"No space left on device.*set TMPDIR to a larger disk"):
        spool("memory://b/0.tar")
    assert full.closed


def set_free(monkeypatch, *free):
    """The disk has 200,000 bytes, of them so many free, each time that it is asked; the last number for ever."""
    answers = list(free)

    def disk_usage(_):
        return SimpleNamespace(total=200_000, free=answers.pop(0) if len(answers) > 1 else answers[0])

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)


def test_a_file_that_does_not_fit_is_not_downloaded(memory, monkeypatch):
    opened = dropping(memory, monkeypatch, after=0, times=0)
    set_free(monkeypatch, len(CONTENT) + 9_999)  # a twentieth is to stay free
    message = (
        f"does not fit into {tempfile.gettempdir()}: it takes {len(CONTENT):,} bytes more, "
        f"{len(CONTENT) + 9_999:,} are free and 10,000 of them stay so: set TMPDIR to a larger disk"
    )
    with pytest.raises(ShardError) as caught:
        spool("memory://b/0.tar")
    assert str(caught.value) == message
    assert opened == []
    set_free(monkeypatch, len(CONTENT) + 10_000)
    assert content() == CONTENT


def test_large_disks_keep_a_gibibyte_free(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=1 << 50, free=(1 << 30) + 100))
    remote._check_space(100)
    with pytest.raises(ShardError, match="it takes 101 bytes more, 1,073,741,924 are free and 1,073,741,824 of them"):
        remote._check_space(101)


def test_a_file_of_unknown_size_stops_before_the_disk_is_full(memory, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    claim_size(memory, monkeypatch, None)
    set_free(monkeypatch, 50_000, 50_000, 10_999)
    with pytest.raises(ShardError, match=r"it takes 1,000 bytes more, 10,999 are free .* set TMPDIR"):
        spool("memory://b/0.tar")
    set_free(monkeypatch, 50_000)
    assert content() == CONTENT


def test_a_stop_ends_the_download_between_chunks(monkeypatch):
    chunks = []
    real = remote._write
    monkeypatch.setattr(remote, "_write", lambda local, chunk: (chunks.append(chunk), real(local, chunk)))
    with pytest.raises(StoppedError, match="the run is stopping"):
        spool("memory://b/0.tar", lambda: len(chunks) == 3)
    assert b"".join(chunks) == CONTENT[:3000]


def test_a_stop_ends_the_wait_for_another_attempt(memory, monkeypatch):
    opened = dropping(memory, monkeypatch, after=0, times=99)
    slept = []
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    with pytest.raises(StoppedError):
        spool("memory://b/0.tar", lambda: sum(slept) > 2)
    assert 2 < sum(slept) <= 2 + remote.POLL_S  # of 0.5 + 1 + 2 + 4 seconds
    assert len(opened) == 3


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
