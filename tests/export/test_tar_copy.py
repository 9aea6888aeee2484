import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.errors import ShardError
from recap_fast.export import tar_copy
from recap_fast.export.tar_copy import TarCopy
from recap_fast.shards.tar import chunks
from recap_fast.shards.tar.chunks import Chunks

SIZE = 10_000
CONTENT = bytes(number * 7 % 251 for number in range(SIZE))
EDITS = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE), st.binary(max_size=50)), max_size=30)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    (folder / "in").write_bytes(CONTENT)
    with (folder / "in").open("rb") as source, (folder / "out").open("w+b", buffering=0) as target:
        yield source, target


@pytest.fixture
def small(monkeypatch):
    for module in (chunks, tar_copy):
        monkeypatch.setattr(module, "CHUNK_BYTES", 512)
    monkeypatch.setattr(tar_copy, "MAX_PIECES", 5)


def copied(files, edits, verify=True):
    source, target = files
    target.truncate(0)
    target.seek(0)
    copy = TarCopy(Chunks(source.fileno()), target.fileno(), SIZE, verify=verify)
    for edit in edits:
        copy.replace(*edit)
    copy.finish()


@given(EDITS)
def test_as_a_slow_copy(files, edits):
    cuts = iter(sorted(place for start, end, _ in edits for place in (start, end)))
    edits = [(next(cuts), next(cuts), new) for _, _, new in edits]
    expected, position = b"", 0
    with pytest.MonkeyPatch.context() as patched:
        for module in (chunks, tar_copy):
            patched.setattr(module, "CHUNK_BYTES", 512)
        patched.setattr(tar_copy, "MAX_PIECES", 5)
        copied(files, edits)
        for start, end, new in edits:
            expected, position = expected + CONTENT[position:start] + new, end
        assert os.pread(files[1].fileno(), 10**6, 0) == expected + CONTENT[position:]


@pytest.mark.parametrize("place", [0, 1500, 2005, SIZE - 1])
def test_a_byte_that_differs_in_the_copy_is_found(files, small, monkeypatch, place):
    read = os.preadv

    def damaged(file, views, at):
        size = read(file, views, at)
        if file == files[1].fileno() and at <= place < at + size:
            views[0][place - at] ^= 1
        return size

    monkeypatch.setattr(os, "preadv", damaged)
    with pytest.raises(ShardError, match="was not copied right: the copy differs between its bytes"):
        copied(files, [(2000, 2010, b"0123456789")])
    copied(files, [(2000, 2010, b"0123456789")], verify=False)


def test_a_copy_of_another_length_is_found(files, small, monkeypatch):
    monkeypatch.setattr(os, "writev", lambda file, views: sum(map(len, views)))
    with pytest.raises(ShardError, match="the copy has 0 bytes, not 9,990"):
        copied(files, [(0, 10, b"")], verify=False)


def test_a_write_that_takes_a_part_goes_on(files, small, monkeypatch):
    whole = os.writev
    monkeypatch.setattr(os, "writev", lambda file, views: whole(file, [views[0][: max(1, len(views[0]) // 2)]]))
    copied(files, [(2000, 2010, b"new")])
    assert os.pread(files[1].fileno(), 10**6, 0) == CONTENT[:2000] + b"new" + CONTENT[2010:]
