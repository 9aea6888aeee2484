"""Addresses and file systems, and what is tried again. Downloads are in test_download.py, HTTP in test_http.py."""

import io
import itertools
import sys

import pytest
from support.shard_files import write_table

from recap_fast.errors import ConfigError
from recap_fast.shards.remote import access
from recap_fast.shards.remote.access import RemoteFile, absolute, exists, file_system, persistently, read_file


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(access, "FIRST_PAUSE_S", 0.0)


class AnswerError(Exception):
    """As those of HTTP clients."""

    def __init__(self, status, **headers):
        super().__init__(f"{status} for https://u:s3cr3t@host/a?sig=s3cr3t")
        self.status = status
        self.headers = headers


def failing(*errors, result="result"):
    """An action that raises these, one after another, and then returns."""
    left = list(errors)

    def act():
        if left:
            error = left.pop(0)
            if isinstance(error, OSError):
                raise error
            raise FileNotFoundError("https://u:s3cr3t@host/a?sig=s3cr3t") from error
        return result

    act.left = left
    return act


@pytest.mark.parametrize(
    "error", [AnswerError(429), AnswerError(500), AnswerError(503), ConnectionResetError("dropped"), OSError(5)]
)
def test_what_may_pass_is_tried_again(error, caplog):
    action = failing(error, error)
    assert persistently(action, "https://u:s3cr3t@host/a?sig=s3cr3t") == "result"
    assert caplog.text.count("https://host/a: ") == 2
    assert "s3cr3t" not in caplog.text


@pytest.mark.parametrize(
    ("error", "kind", "text", "tries"),
    [
        (AnswerError(404), FileNotFoundError, "is not there", 1),
        (AnswerError(410), FileNotFoundError, "is not there", 1),
        (FileNotFoundError("x"), FileNotFoundError, "is not there", 1),
        (AnswerError(401), PermissionError, "access is denied, the server answered 401 Unauthorized", 1),
        (AnswerError(403), PermissionError, "access is denied, the server answered 403 Forbidden", 1),
        (PermissionError("x"), PermissionError, "access is denied: x", 1),
        (IsADirectoryError("x"), OSError, "IsADirectoryError: x", 1),
        (AnswerError(400), OSError, "the server answered 400 Bad Request", 1),
        (AnswerError(412), OSError, "it was replaced while it was read", 1),
        (AnswerError(429), ConnectionError, "the server answered 429 Too Many Requests, tried 5 times", 5),
        (AnswerError(500), ConnectionError, "the server answered 500 Internal Server Error, tried 5 times", 5),
        (AnswerError(599), ConnectionError, "the server answered 599, tried 5 times", 5),
        (ConnectionRefusedError("no"), ConnectionError, "ConnectionRefusedError: no, tried 5 times", 5),
    ],
)
def test_what_is_given_up_says_what_the_server_answered(error, kind, text, tries):
    action = failing(*[error] * 9)
    with pytest.raises(kind) as caught:
        persistently(action, "https://host/a")
    assert type(caught.value) is kind
    assert str(caught.value) == text
    assert 9 - len(action.left) == tries


@pytest.mark.parametrize(
    ("headers", "pauses"),
    [
        ({}, [0.5, 1.0, 2.0, 4.0]),
        ({"Retry-After": "3"}, [3.0, 3.0, 3.0, 4.0]),
        ({"retry-after": "86400"}, [30.0] * 4),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, [30.0] * 4),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, [0.5, 1.0, 2.0, 4.0]),
        ({"Retry-After": "soon"}, [0.5, 1.0, 2.0, 4.0]),
        ({"Retry-After": "9" * 5000}, [30.0] * 4),
    ],
)
def test_pauses_grow_and_the_server_may_ask_for_longer_ones_within_bounds(monkeypatch, headers, pauses):
    slept = []
    monkeypatch.setattr(access, "FIRST_PAUSE_S", 0.5)
    monkeypatch.setattr(access, "pause", slept.append)
    with pytest.raises(ConnectionError):
        persistently(failing(*[AnswerError(503, **headers)] * 9), "https://host/a")
    assert slept == pauses


def test_what_hangs_is_tried_twice(monkeypatch):
    clock = itertools.count(step=20)
    monkeypatch.setattr(access.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(access, "patiently", lambda action: action())
    monkeypatch.setattr(access, "pause", lambda seconds: None)
    with pytest.raises(ConnectionError, match="nothing came, tried 2 times"):
        persistently(failing(*[TimeoutError("nothing came")] * 9), "https://host/a")


def test_whether_something_is_there(memory):
    memory.pipe("/b/0.tar", b"x")
    assert exists("memory://b/0.tar")
    assert exists("memory://b")
    assert not exists("memory://b/1.tar")


def test_small_files_are_read_whole(memory):
    memory.pipe("/b/a.jpg", b"x" * 10)
    content, identity = read_file("memory://b/a.jpg", 10)
    assert content == b"x" * 10
    assert read_file("memory://b/a.jpg", 9) == (None, identity)
    assert identity.size_bytes == 10
    with pytest.raises(FileNotFoundError, match="is not there"):
        read_file("memory://b/b.jpg", 9)


# -- files that are read in places -------------------------------------------------------------------------------------


@pytest.fixture
def table(blocking, tmp_path):
    """A Parquet file on blocking://."""
    content = write_table(tmp_path / "t.parquet", {"image": [b"x" * 100] * 50}).read_bytes()
    blocking.files["b/t.parquet"] = content
    return content


def test_any_part_can_be_read(table):
    with RemoteFile("blocking://b/t.parquet") as file, io.BytesIO(table) as expected:
        for offset, whence, size in ((0, 0, 4), (-8, 2, 100), (10, 0, 0), (3, 1, 20), (10**9, 0, 5)):
            assert file.seek(offset, whence) == expected.seek(offset, whence) == file.tell()
            assert file.read(size) == expected.read(size)


@pytest.mark.parametrize("when", ["info", "open", "read"])
def test_a_part_that_hangs_is_tried_again(hangs, table, when):
    with RemoteFile("blocking://b/t.parquet") as file:
        hangs.block(when, times=1)
        assert file.read(100) == table[:100]


def test_parts_of_two_versions_are_not_mixed(blocking, table):
    with RemoteFile("blocking://b/t.parquet") as file:
        assert file.read(4) == table[:4]
        blocking.files["b/t.parquet"] = table + b"new"
        blocking.fail("read", ConnectionResetError("dropped"))
        with pytest.raises(OSError, match="it was replaced while it was read"):
            file.read(4)


def test_a_missing_package_and_an_unknown_protocol_are_explained(monkeypatch):
    import fsspec

    def missing(*_, **__):
        raise ImportError("Install huggingface_hub to access the Hub")

    with pytest.raises(ConfigError, match="nosuch://x is of a kind that fsspec does not know"):
        file_system("nosuch://x")
    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ConfigError, match=r"hf://b/x needs .* not installed: run `pip install huggingface_hub`"):
        file_system("hf://b/x")
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigError, match=r"s3://b/x needs .* not installed: run `pip install 'recap-fast\[cloud\]'`"):
        file_system("s3://b/x")
    monkeypatch.setitem(sys.modules, "recap_fast.shards.remote.http", None)
    with pytest.raises(ConfigError, match=r"^https://b/x needs .*: run `pip install aiohttp`"):
        file_system("https://u:s3cr3t@b/x?s3cr3t")


@pytest.mark.parametrize(
    ("address", "expected"),
    [("/a/../b/", "/b"), ("file:///a/b", "/a/b"), ("s3://b/a/", "s3://b/a"), ("memory://", "memory://")],
)
def test_absolute(address, expected):
    assert absolute(address) == expected
