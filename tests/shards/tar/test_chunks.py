import pytest

from recap_fast.errors import ShardError
from recap_fast.shards.tar import chunks
from recap_fast.shards.tar.chunks import Chunks


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 16)
    (tmp_path / "x").write_bytes(bytes(range(100)))
    with (tmp_path / "x").open("rb") as opened:
        yield opened


def test_any_stretch(file):
    read = Chunks(file.fileno())
    for start, end in ((0, 0), (0, 100), (15, 17), (99, 100), (3, 60), (0, 5)):
        assert read.read(start, end - start) == bytes(range(start, end))


def test_what_is_near_is_read_once(file, monkeypatch):
    places, pread = [], chunks.os.preadv
    monkeypatch.setattr(chunks.os, "preadv", lambda file, to, place: places.append(place) or pread(file, to, place))
    read = Chunks(file.fileno())
    for start in range(96):
        read.read(max(0, start - 16), 4)
        read.read(start, 4)
    assert places == [0, 16, 32, 48, 64, 80, 96]


def test_pieces_stay_as_they_are_while_others_are_read(file):
    read = Chunks(file.fileno())
    kept = [*read.views(0, 40), *read.views(70, 75)]
    read.read(0, 100)
    read.read(0, 100)
    assert b"".join(kept) == bytes([*range(40), *range(70, 75)])


def test_a_file_that_ends_before(file):
    with pytest.raises(ShardError, match="has become shorter while it was read"):
        Chunks(file.fileno()).read(90, 20)
