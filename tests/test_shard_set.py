import pytest

from recap_fast.errors import ConfigError
from recap_fast.records import Shard
from recap_fast.shard_set import ShardSet, path_parts

SHARDS = (Shard("0", "/in/data/0.tar", "tar"), Shard("a/1", "/in/data/a/1.tar", "tar"))


def test_names_from_a_root_higher_up():
    shard_set = ShardSet("/in/data", SHARDS)
    assert [shard.name for shard in shard_set.below("/in").shards] == ["data/0", "data/a/1"]
    assert shard_set.below("/in/data") == shard_set
    for root in ("/in/data/deeper", "/in/dat", "s3://in"):
        with pytest.raises(ConfigError, match="give another --output"):
            shard_set.below(root)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("/in//a/", ["in", "a"]),
        ("", []),
        ("s3://bucket/a/", ["s3", "bucket", "a"]),
        ("zip::file:///x", ["zip--file", "x"]),
        ("https://host/a?b=/c", ["https", "host", "a"]),
    ],
)
def test_the_parts_of_an_address(url, parts):
    assert path_parts(url) == parts
