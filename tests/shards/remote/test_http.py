"""HTTP against a server that errs: every download is of one version, in time, and says what the server answered."""

import re
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.shard_files import tar_bytes, webdataset_members
from support.web import Fault, Web

from recap_fast.errors import ShardError, StoppedError
from recap_fast.records import Shard
from recap_fast.shards.identity import identity
from recap_fast.shards.patience import patience
from recap_fast.shards.remote import access
from recap_fast.shards.remote.access import RemoteFile, exists, file_system, persistently, read_file
from recap_fast.shards.remote.download import spool

CONTENT = tar_bytes(webdataset_members(4))
OTHER = bytes(reversed(CONTENT))
"""Of equal size."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(access, "FIRST_PAUSE_S", 0.0)


@pytest.fixture
def web():
    with Web() as web:
        web.files["b/0.tar"] = CONTENT
        yield web


def download(web, path="b/0.tar", login=""):
    with spool(web.url(path, login)).file as file:
        return file.read()


def test_a_file_comes_with_one_request(web):
    assert download(web) == CONTENT
    (headers,) = web.gets
    assert headers["accept-encoding"] == "identity"
    assert "range" not in headers


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("dates", [True, False])
def test_a_dropped_connection_goes_on_where_it_broke(web, etags, dates, caplog):
    web.etags, web.dates = etags, dates
    web.faults.extend([Fault(after=1000)] * 3 + [Fault(after=0)] * 2)
    assert download(web) == CONTENT
    assert [headers.get("range") for headers in web.gets] == [
        None,
        *(f"bytes={n}-" for n in (1000, 2000, 3000, 3000, 3000)),
    ]
    assert all(("if-range" in headers) == (etags or dates) for headers in web.gets[1:])
    assert "trying again" in caplog.text


def test_a_server_without_ranges_starts_again(web, caplog):
    web.ranges = False
    web.faults.extend([Fault(after=1000)] * 3)
    assert download(web) == CONTENT
    assert "replaced" not in caplog.text


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize(("etags", "dates"), [(True, False), (False, True), (True, True)])
def test_a_file_that_is_replaced_between_two_tries_is_read_again_from_its_start(
    web, caplog, heeds_if_range, etags, dates
):
    web.heeds_if_range, web.etags, web.dates = heeds_if_range, etags, dates
    new = CONTENT[:-1] + b"y"
    web.faults.append(Fault(after=1000, then=lambda: web.files.update({"b/0.tar": new})))
    assert download(web) == new
    assert f"{web.url('b/0.tar')}: it was replaced while it was read; reading it again from its start" in caplog.text


def test_a_file_that_has_become_shorter_is_read_again(web):
    web.etags = False
    web.faults.append(Fault(after=5000, then=lambda: web.files.update({"b/0.tar": CONTENT[:3000]})))
    assert download(web) == CONTENT[:3000]


def test_a_file_that_is_replaced_for_ever_is_given_up(web):
    def replace():
        web.files["b/0.tar"] = web.files["b/0.tar"][1:] + b"x"

    web.faults.extend([Fault(after=1000, then=replace), Fault(after=0)] * 9)
    with pytest.raises(ShardError, match=r"cannot be read: it was replaced 4 times while it was read"):
        download(web)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 9000), st.booleans()), max_size=6), st.booleans(), st.booleans())
def test_what_comes_is_always_one_version(web, breaks, ranges, heeds_if_range):
    web.ranges, web.heeds_if_range = ranges, heeds_if_range
    versions = [CONTENT, OTHER]
    web.files["b/0.tar"] = CONTENT
    web.faults.clear()
    replacing = 0
    for after, replaced in breaks:
        replacing += replaced
        then = (lambda: web.files.update({"b/0.tar": versions[web.files["b/0.tar"] == CONTENT]})) if replaced else list
        web.faults.append(Fault(after=after, then=then))
    given_up = ""
    try:
        assert download(web) in versions
    except ShardError as error:
        given_up = str(error)
    assert not given_up or re.search(r"tried 5 times|replaced 4 times", given_up)


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(web, status):
    web.faults.extend([Fault(status)] * 4)
    assert download(web) == CONTENT
    web.faults.extend([Fault(status)] * 5)
    with pytest.raises(ShardError, match=rf"cannot be read: the server answered {status} [A-Z].*, tried 5 times"):
        download(web)


@pytest.mark.parametrize(
    ("status", "message", "tries"),
    [
        (401, "cannot be read: access is denied, the server answered 401 Unauthorized", 1),
        (403, "cannot be read: access is denied, the server answered 403 Forbidden", 1),
        (404, "is not there", 1),
        (410, "is not there", 1),
        (400, "cannot be read: the server answered 400 Bad Request", 1),
        (503, "cannot be read: the server answered 503 Service Unavailable, tried 5 times", 5),
    ],
)
def test_answers_are_told_apart(web, status, message, tries):
    web.always = Fault(status)
    with pytest.raises(ShardError) as caught:
        download(web)
    assert str(caught.value) == message
    assert len(web.gets) == tries
    with pytest.raises(ShardError) as caught:
        identity(Shard("0", web.url("b/0.tar"), "tar"))
    assert str(caught.value) == message


def test_retry_after_is_honored(web, monkeypatch):
    slept = []
    monkeypatch.setattr(access, "pause", slept.append)
    web.faults.extend([Fault(429, {"Retry-After": "7"}), Fault(503, {"Retry-After": "999"})])
    assert download(web) == CONTENT
    assert slept == [7.0, 30.0]


def test_whether_a_file_is_there(web):
    assert exists(web.url("b/0.tar"))
    assert not exists(web.url("b/1.tar"))
    web.always = Fault(403)
    with pytest.raises(PermissionError, match="access is denied, the server answered 403 Forbidden"):
        exists(web.url("b/0.tar"))
    web.always = Fault(500)
    with pytest.raises(ConnectionError, match="the server answered 500 Internal Server Error, tried 5 times"):
        exists(web.url("b/0.tar"))


def test_nobody_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/0.tar"
        with pytest.raises(ShardError, match=r"cannot be read: ConnectionRefusedError: .*, tried 5 times"):
            spool(url)
        with pytest.raises(ConnectionError, match="tried 5 times"):
            exists(url)


def test_a_login_and_a_query_reach_the_server_and_nobody_else(web, caplog):
    web.login = "user:s3cr3t"
    web.faults.append(Fault(after=1000))
    assert download(web, "b/0.tar?sig=s3cr3t", "user:s3cr3t@") == CONTENT
    with pytest.raises(ShardError, match="access is denied, the server answered 401") as caught:
        download(web, "b/0.tar?sig=s3cr3t", "user:wrong-s3cr3t@")
    web.login = None
    web.always = Fault(500)
    with pytest.raises(ShardError) as again:
        download(web, "b/0.tar?sig=s3cr3t", "user:s3cr3t@")
    for text in (str(caught.value), str(again.value), caplog.text):
        assert "s3cr3t" not in text


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [None, 0, 1000], ids=["no answer", "no body", "in the body"])
def test_a_server_that_stops_is_given_up(web, after):
    web.faults.append(Fault(after=after, stall=True))
    web.always = Fault(after=0, stall=True)
    with patience(0.1), pytest.raises(ShardError, match=r"cannot be read: .*[tT]imeout.*, tried \d times"):
        download(web)


@pytest.mark.parametrize("after", [None, 0, 1000], ids=["no answer", "no body", "in the body"])
def test_a_stop_ends_the_wait_for_a_server(web, after):
    web.always = Fault(after=after, stall=True)
    with pytest.raises(StoppedError):
        spool(web.url("b/0.tar"), web.stalled.is_set)


@pytest.mark.parametrize("after", [None, 0, 1000], ids=["no answer", "no body", "in the body"])
def test_small_files_and_parts_have_a_deadline_too(web, after):
    url = web.url("b/0.tar")
    file = RemoteFile(url)
    web.always = Fault(after=after, stall=True)
    with patience(0.1):
        for read in (lambda: read_file(url, 10**6), lambda: RemoteFile(url).read(2000), lambda: file.read(2000)):
            with pytest.raises(ConnectionError, match=r"tried \d times"):
                read()


def test_a_connection_that_is_never_taken_is_given_up():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:  # the queue is full: the next connection hangs
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            with patience(0.2), pytest.raises(ShardError, match=r"tried \d times"):
                spool(f"http://127.0.0.1:{port}/0.tar")
        finally:
            for one in waiting:
                one.close()


# -- listings and parts ------------------------------------------------------------------------------------------------


def test_an_outage_in_a_listing_is_no_empty_folder(web):
    web.files = {"b/a/0.tar": CONTENT}
    system, path = file_system(web.url("b"))
    assert persistently(lambda: system.find(path), path) == [web.url("b/a/0.tar")]
    for fault in (Fault(500), Fault(stall=True)):
        web.always = fault
        with patience(0.1), pytest.raises(ConnectionError, match=r"tried \d times"):
            persistently(lambda: system.find(path), path)


def test_parts_of_two_versions_are_not_mixed(web):
    web.files["t.parquet"] = CONTENT * 3000  # more than is read ahead
    with RemoteFile(web.url("t.parquet")) as file:
        assert file.read(1000) == CONTENT[:1000]
        web.files["t.parquet"] = OTHER * 3000
        file.seek(20 << 20)
        with pytest.raises(OSError, match="it was replaced while it was read"):
            file.read(1000)
