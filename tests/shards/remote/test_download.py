import io
import shutil
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
from support.guard import GUARD_S
from support.shard_files import tar_bytes, webdataset_members

from recap_fast.errors import ShardError, StoppedError
from recap_fast.records import Shard
from recap_fast.shards.patience import patience
from recap_fast.shards.reader import open_shard
from recap_fast.shards.remote import access, download
from recap_fast.shards.remote.download import spool

CONTENT = tar_bytes(webdataset_members(4))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(access, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(download, "CHUNK_BYTES", 1000)


@pytest.fixture(autouse=True)
def memory(memory):
    """With one tar in it."""
    memory.pipe("/b/0.tar", CONTENT)
    return memory


def content():
    with spool("memory://b/0.tar").file as file:
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
    with pytest.raises(ShardError, match="cannot be read: ConnectionResetError: dropped, tried 5 times"):
        spool("memory://b/0.tar")
    assert len(opened) == 5


def test_an_early_end_is_noticed(memory, monkeypatch):
    claim_size(memory, monkeypatch, len(CONTENT) + 1)
    with pytest.raises(ShardError, match=f"the connection ended after {len(CONTENT):,} bytes"):
        spool("memory://b/0.tar")


def test_a_missing_file_is_not_tried_again():
    with pytest.raises(ShardError, match=r"^is not there$"):
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
    spooled = download._Spool(io.BytesIO())
    spooled.reserve(100)
    with pytest.raises(ShardError, match="it takes 101 bytes more, 1,073,741,924 are free and 1,073,741,824 of them"):
        spooled.reserve(101)


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
    write = download._Spool.write
    monkeypatch.setattr(download._Spool, "write", lambda self, chunk: (chunks.append(chunk), write(self, chunk)))
    with pytest.raises(StoppedError, match="the run is stopping"):
        spool("memory://b/0.tar", lambda: len(chunks) == 3)
    assert b"".join(chunks) == CONTENT[:3000]


def test_a_stop_ends_the_wait_for_another_attempt(memory, monkeypatch):
    monkeypatch.setattr(access, "FIRST_PAUSE_S", GUARD_S)
    opened = dropping(memory, monkeypatch, after=0, times=99)
    asked = []
    with pytest.raises(StoppedError):
        spool("memory://b/0.tar", lambda: bool(opened) and (asked.append(1) or len(asked) > 9))
    assert len(opened) == 1


@pytest.mark.parametrize("when", ["info", "open", "read"])
def test_what_hangs_is_tried_again_and_its_thread_left_behind(hangs, when):
    hangs.files["b/0.tar"] = CONTENT
    hangs.block(when, times=1)
    with spool("blocking://b/0.tar").file as file:
        assert file.read() == CONTENT


@pytest.mark.parametrize("when", ["info", "open", "read"])
def test_what_hangs_again_and_again_is_given_up(blocking, when):
    blocking.files["b/0.tar"] = CONTENT
    blocking.block(when)
    with patience(0.05), pytest.raises(ShardError, match=r"cannot be read: nothing came for 0\.05 s, tried 2 times"):
        spool("blocking://b/0.tar")


@pytest.mark.parametrize("when", ["info", "open", "read"])
def test_a_stop_ends_what_hangs(blocking, when):
    blocking.files["b/0.tar"] = CONTENT
    blocking.block(when)
    with pytest.raises(StoppedError):
        spool("blocking://b/0.tar", lambda: blocking.num_blocked > 0)


def test_chunks_that_do_not_come_in_time_become_smaller(hangs, monkeypatch):
    monkeypatch.setattr(download, "CHUNK_BYTES", 16_000)
    monkeypatch.setattr(download, "SMALLEST_CHUNK_BYTES", 4000)
    content = hangs.files["b/0.tar"] = CONTENT * 20
    hangs.slow_above = 5000
    with spool("blocking://b/0.tar").file as file:
        assert file.read() == content


def test_a_file_that_is_replaced_between_two_tries_is_read_again_from_its_start(blocking, caplog):
    blocking.files["b/0.tar"] = CONTENT
    new = CONTENT[:-500] + b"x" * 500  # of one size

    def replace():
        if blocking.files["b/0.tar"] == CONTENT:
            blocking.files["b/0.tar"] = new
            blocking.fail("read", ConnectionResetError("dropped"))

    blocking.after_read = replace
    with spool("blocking://b/0.tar").file as file:
        assert file.read() == new
    assert "blocking://b/0.tar: ConnectionResetError: dropped; trying again" in caplog.text
    assert "blocking://b/0.tar: it was replaced while it was read; reading it again from its start" in caplog.text


def test_a_file_that_is_replaced_during_the_last_try_is_read_again(blocking):
    blocking.files["b/0.tar"] = CONTENT
    blocking.after_read = lambda: blocking.files.update({"b/0.tar": CONTENT + b"new"})
    with spool("blocking://b/0.tar").file as file:
        assert file.read() == CONTENT + b"new"


def test_a_file_that_is_replaced_for_ever_is_given_up(blocking):
    blocking.files["b/0.tar"] = CONTENT
    blocking.after_read = lambda: blocking.files.update({"b/0.tar": blocking.files["b/0.tar"] + b"new"})
    with pytest.raises(ShardError, match="cannot be read: it was replaced 4 times while it was read"):
        spool("blocking://b/0.tar")
