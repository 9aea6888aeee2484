import os

import pytest
from support.ledgers import unit_of

from recap_fast.errors import ShardError
from recap_fast.records import Identity, Shard
from recap_fast.shards.identity import identity


def test_of_a_local_file_size_and_mtime(tmp_path):
    path = tmp_path / "0.tar"
    path.write_bytes(b"123")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    found = identity(Shard("0", str(path), "tar"))
    assert found == Identity(3, "1700000000123456789")
    assert found.text == "3:1700000000123456789"


def test_of_a_remote_file_size_and_what_names_its_version(memory):
    shard = Shard("0", "memory://b/0.tar", "tar")
    memory.pipe("/b/0.tar", b"123")
    first = identity(shard)
    assert (first.size_bytes, first) == (3, identity(shard))
    memory.pipe("/b/0.tar", b"456")
    assert identity(shard) != first


@pytest.mark.parametrize("url", ["/gone/0.tar", "memory://gone/0.tar"])
def test_what_is_not_there_is_a_shard_error(url):
    with pytest.raises(ShardError, match="is not there"):
        identity(Shard("0", url, "tar"))


def test_the_identity_of_a_unit_covers_its_images_as_they_were_listed(tmp_path):
    def listed():
        return unit_of(tmp_path, "a.jpg", "b.jpg")

    for name in ("a.jpg", "b.jpg", "other.jpg"):
        (tmp_path / name).write_bytes(b"123")
        os.utime(tmp_path / name, ns=(0, 0))
    shard = listed()
    before = identity(shard)
    assert before.size_bytes == 6
    os.utime(tmp_path / "other.jpg", ns=(0, 5))
    assert identity(listed()) == before
    seen = {before}
    os.utime(tmp_path / "a.jpg", ns=(0, 5))
    seen.add(identity(listed()))
    (tmp_path / "b.jpg").unlink()
    seen.add(identity(listed()))
    assert len(seen) == 3
    assert identity(shard) == before
