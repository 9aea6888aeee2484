"""A remote tar is counted by its first bytes: no others are asked for."""

import pytest
from support.shard_files import tar_bytes, webdataset_members
from support.web import Web

from recap_fast.errors import ShardError
from recap_fast.records import Selection, Shard
from recap_fast.shards.tar import start
from recap_fast.shards.tar.start import Start, count_start

CONTENT = tar_bytes([*webdataset_members(300), ("last.jpg", bytes(12 << 20))])
"""Larger than what fsspec reads ahead: 5 MiB."""
SAMPLE_BYTES = 3 * (512 + 512)
"""Three members, each of a header and a block."""


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr(start, "START_BYTES", 10_000)
    monkeypatch.setattr(start, "MOST_BYTES", 160_000)
    monkeypatch.setattr(start, "FEW_ROWS", 10)
    monkeypatch.setattr(start, "_CHUNK_BYTES", 5_000)
    with Web() as web:
        yield web


def count(web, content, path="a.tar"):
    web.files["a.tar"] = content
    return count_start(Shard("a", web.url(path), "tar"), len(content), Selection())


def test_a_small_tar_is_counted_whole(web):
    content = tar_bytes(webdataset_members(3))
    assert count(web, content) == Start(3, len(content), None)


def test_of_a_large_tar_the_first_bytes_are_read_and_more_where_they_have_few_rows(web):
    found = count(web, CONTENT)
    assert found == Start((40_000 - 512) // SAMPLE_BYTES, 40_000, None)
    last = max(int(headers["range"].rpartition("-")[2]) for headers in web.gets if "range" in headers)
    assert last < len(CONTENT) // 2


def test_of_a_tar_of_large_files_no_more_is_read_than_the_most(web):
    content = tar_bytes([(f"{number}.jpg", b"x" * 100_000) for number in range(9)])
    assert count(web, content) == Start(1, 160_000, None)


def test_what_is_cut_off_or_no_tar(web):
    cut = tar_bytes(webdataset_members(3))[:4000]
    assert count(web, cut).problem == "cut off at byte 4,000"
    with pytest.raises(ShardError, match=r"^is not a tar: "):
        count(web, b"<html>" * 9000)
