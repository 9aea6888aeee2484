"""Inputs in an object store whose server errs: what is tried again, goes on where it broke, or is given up."""

from datetime import timedelta

import obstore
import pytest
from support.fault_proxy import Fault, every, first, seeded
from support.guard import GUARD_S
from support.shard_files import tar_bytes, webdataset_members

from recap_fast.errors import ConfigError, InputError, ShardError, StoppedError
from recap_fast.shards.locate import locate
from recap_fast.shards.patience import patience
from recap_fast.shards.remote import access
from recap_fast.shards.remote.access import RemoteFile, read_file, remote_identity
from recap_fast.shards.remote.bucket import ObjectFiles
from recap_fast.shards.remote.download import _Spool, spool
from recap_fast.store import connection
from recap_fast.store.connection import connect

CONTENT = tar_bytes(webdataset_members(4)) * 200
"""4 MB, which come in several pieces."""
NEW = CONTENT[:-500] + b"x" * 500
DENIED = Fault("status", 403, "AccessDenied")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(access, "FIRST_PAUSE_S", 0.0)
    soon = timedelta(milliseconds=1)
    monkeypatch.setitem(connection.RETRIES, "backoff", {"init_backoff": soon, "max_backoff": soon, "base": 2})


@pytest.fixture
def server(s3_bucket, s3_faults):
    """Its schedule errs; it has a tar, which `replace` changes."""
    put(f"{s3_bucket}/0.tar", CONTENT)
    s3_faults.url = f"{s3_bucket}/0.tar"
    s3_faults.replace = lambda content=NEW: put(s3_faults.url, content)
    return s3_faults


@pytest.fixture
def restarts(monkeypatch):
    """How often a download began again from the start."""
    found = []
    restart = _Spool.restart
    monkeypatch.setattr(_Spool, "restart", lambda self: (self.tell() and found.append(self.tell()), restart(self))[1])
    return found


def put(url, content):
    obstore.put(*connect(url), content, use_multipart=False)


def content(url):
    with spool(url).file as file:
        return file.read()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("reset"),
        Fault("lose"),
        Fault("status", 429, "TooManyRequests"),
        Fault("status", 500, "InternalError"),
        Fault("status", 503),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status}",
)
@pytest.mark.parametrize("times", [1, 5])
def test_what_passes_is_tried_again(server, fault, times):
    server.schedule = first(times, fault)
    assert content(server.url) == CONTENT
    server.schedule = first(times, fault)
    assert read_file(server.url, 1 << 30)[0] == CONTENT
    server.schedule = first(times, fault)
    assert len(locate([server.url.replace("0.tar", "*.tar")])) == 1


def test_a_download_goes_on_where_it_broke(server, restarts, monkeypatch):
    starts, get_from = [], ObjectFiles.get_from

    def counted(self, path, start, *more):
        starts.append(start)
        return get_from(self, path, start, *more)

    monkeypatch.setattr(ObjectFiles, "get_from", counted)
    server.schedule = first(4, Fault("truncate"), "GET", "0.tar")  # each time half of the rest comes
    assert content(server.url) == CONTENT
    assert restarts == []
    assert starts[0] == 0
    assert min(starts[1:]) > len(CONTENT) // 2
    assert server.came("GET", "0.tar") == 5


@pytest.mark.parametrize("seed", range(4))
def test_a_server_that_errs_all_the_time_loses_nothing(server, seed):
    server.schedule = seeded(seed, 0.6)
    assert content(server.url) == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), 100_000], ids=["large", "nothing has come"])
def test_a_file_that_is_replaced_while_it_is_downloaded_is_read_again_from_its_start(server, size, caplog):
    server.replace(CONTENT[:size])
    server.schedule = first(1, Fault("truncate", then=lambda: server.replace(NEW[-size:])), "GET")
    spooled = spool(server.url)
    with spooled.file as file:
        assert file.read() == NEW[-size:]
    assert spooled.version == remote_identity(server.url)
    known = "it was replaced while it was read; reading it again from its start" in caplog.text
    assert known == (size > 100_000), "of the small one nothing had come"


def test_a_file_that_is_replaced_for_ever_is_given_up(server):
    versions = (bytes([number]) * len(CONTENT) for number in range(99))
    fault = Fault("truncate", then=lambda: server.replace(next(versions)))
    server.schedule = lambda request: fault if request.method == "GET" else None
    with pytest.raises(ShardError, match="cannot be read: it was replaced 4 times while it was read"):
        spool(server.url)


def test_a_file_that_vanishes_while_it_is_downloaded(server):
    server.schedule = first(1, Fault("truncate", then=lambda: obstore.delete(*connect(server.url))), "GET")
    with pytest.raises(ShardError, match=r"^is not there$"):
        spool(server.url)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (DENIED, r"cannot be read: access is denied, the server answered 403 Forbidden \(AccessDenied\)$"),
        (Fault("status", 503), r"the server answered 503 Service Unavailable \(SlowDown\), tried 5 times$"),
        (Fault("reset"), r"the connection to http://127\.0\.0\.1:\d+ failed: .*, tried 5 times$"),
    ],
    ids=["denied", "busy", "reset"],
)
def test_what_is_given_up_says_what_the_server_answered(server, fault, text):
    server.schedule = every(fault)
    with pytest.raises(ShardError, match=text) as caught:
        spool(server.url)
    assert "Debug" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("value", ["0.tar", "*.tar", "", "nothing"])
def test_inputs_that_are_denied_or_out_of_reach(server, value):
    address = server.url.replace("0.tar", value)
    server.schedule = every(DENIED)
    with pytest.raises(InputError, match="access is denied, the server answered 403"):
        locate([address])
    server.schedule = every(Fault("status", 503))
    with pytest.raises(InputError, match="cannot be reached: the server answered 503"):
        locate([address])


def test_no_server_at_all(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"cannot be reached: the connection to http://127\.0\.0\.1:9 failed"):
        locate([server.url])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9")
    with pytest.raises(ConfigError, match="write it with its scheme"):
        locate([server.url])


def test_what_hangs_is_given_up_after_the_read_timeout(server):
    server.schedule = every(Fault("stall"), "GET")
    with patience(0.2), pytest.raises(ShardError, match=r"cannot be read: .*in time.*|nothing came for 0\.2 s.*"):
        spool(server.url)
    assert server.stalled.wait(GUARD_S)


@pytest.mark.parametrize("action", [spool, lambda url, stop: read_within(url, stop)], ids=["download", "file"])
def test_a_stop_ends_what_hangs(server, action):
    server.schedule = every(Fault("stall"), "GET")
    with pytest.raises(StoppedError):
        action(server.url, server.stalled.is_set)


def read_within(url, should_stop):
    with patience(should_stop=should_stop):
        read_file(url, 1 << 30)


def test_a_file_that_is_read_in_places_is_tried_again_and_of_one_version(server):
    file = RemoteFile(server.url)
    server.schedule = first(2, Fault("truncate"), "GET")
    assert file.read(100_000) == CONTENT[:100_000]
    file.seek(2_000_000)
    server.schedule = first(1, Fault("reset"), "GET")
    assert file.read(100_000) == CONTENT[2_000_000:2_100_000]
    server.replace()
    file.seek(3_000_000)
    with pytest.raises(OSError, match="it was replaced"):
        file.read(100_000)


def test_an_empty_file(server):
    server.replace(b"")
    assert content(server.url) == b""
    assert RemoteFile(server.url).read(10) == b""
