import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import share
from support.guard import GUARD_S, guarded, wait_until

from recap_fast.shards.remote import blocks as module
from recap_fast.shards.remote.blocks import Blocks

CONTENT = bytes(range(251)) * 40


class Source:
    """A file that counts what is fetched of it."""

    def __init__(self, content=CONTENT):
        self.content, self.fetched = content, []
        self.before = lambda start: None

    def fetch(self, start, end):
        self.before(start)
        self.fetched.append((start, end))
        return self.content[start:end]

    def blocks(self):
        return Blocks(self.fetch, len(self.content))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    monkeypatch.setattr(module, "MAX_BYTES", 800)


def read(blocks, position, size):
    blocks.seek(position)
    return blocks.read(size)


@share(0.2)
@given(st.lists(st.tuples(st.integers(0, len(CONTENT) + 50), st.integers(0, 300)), max_size=30))
def test_any_reads_bring_what_the_file_has(places):
    blocks = Source().blocks()
    for position, size in places:
        assert read(blocks, position, size) == CONTENT[position : position + size]


def test_a_read_alone_fetches_no_more_than_it_was_asked_for():
    source = Source()
    blocks = source.blocks()
    assert read(blocks, 5000, 7) == CONTENT[5000:5007]
    assert read(blocks, 20, 30) == CONTENT[20:50]
    assert source.fetched == [(5000, 5007), (20, 50)]


def test_reads_that_go_on_come_by_few_requests_and_what_follows_is_on_its_way():
    source = Source()
    blocks = source.blocks()
    assert b"".join(read(blocks, position, 10) for position in range(0, 300, 10)) == CONTENT[:300]
    wait_until(lambda: len(source.fetched) == 1 + 3 + module.NUM_AHEAD)
    assert sorted(source.fetched) == [(0, 10), *((start, start + 100) for start in range(10, 710, 100))]


def test_a_long_read_comes_in_several_requests_at_once():
    source, together = Source(), threading.Barrier(1 + module.NUM_AHEAD)
    source.before = lambda start: start >= 700 or together.wait(GUARD_S)
    assert guarded(lambda: read(source.blocks(), 200, 400)) == CONTENT[200:600]


def test_columns_that_take_turns_keep_their_blocks():
    source = Source()
    blocks = source.blocks()
    for step in range(20):
        for column in (0, 2000, 4000):
            assert read(blocks, column + 10 * step, 10) == CONTENT[column + 10 * step : column + 10 * step + 10]
    assert len(source.fetched) < 30, "of 60 reads of 9 blocks"


@pytest.mark.parametrize("num_columns", [1, 2, 5])
def test_long_columns_that_take_turns_are_fetched_about_once(num_columns):
    source = Source()
    blocks = source.blocks()
    for step in range(100):
        for column in range(0, num_columns * 2000, 2000):
            assert read(blocks, column + 20 * step, 20) == CONTENT[column + 20 * step : column + 20 * step + 20]
    assert sum(end - start for start, end in source.fetched) < 2.2 * 2000 * num_columns


def test_no_more_is_kept_than_allowed():
    source = Source()
    blocks = source.blocks()
    for position in range(0, len(CONTENT), 10):
        read(blocks, position, 10)
        assert sum(map(len, blocks._kept.values())) <= 800
        assert len(blocks._ahead) <= module.NUM_AHEAD
    assert len(read(blocks, 0, 5000)) == 5000
    assert sum(map(len, blocks._kept.values())) <= 800


def test_an_error_is_that_of_the_read_that_wants_the_bytes():
    source = Source()
    blocks = source.blocks()

    def fail(start):
        if start == 110:
            raise ConnectionResetError("dropped")

    source.before = fail
    assert read(blocks, 0, 10) + read(blocks, 10, 100) == CONTENT[:110]
    with pytest.raises(ConnectionResetError, match="dropped"):
        read(blocks, 110, 10)
    source.before = lambda start: None
    assert read(blocks, 110, 10) == CONTENT[110:120]


def test_a_file_that_is_shorter_than_it_said():
    source = Source(CONTENT[:50])
    with pytest.raises(EOFError, match="nothing came from byte 50 on"):
        read(Blocks(source.fetch, 60), 40, 20)
