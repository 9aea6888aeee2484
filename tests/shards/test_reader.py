import numpy as np
from support.ledgers import shards_of
from support.shard_files import webdataset_members, write_table, write_tar

from recap_fast.shards.identity import identity
from recap_fast.shards.reader import open_shard


def test_all_kinds_of_shards_give_the_same_samples(tmp_path):
    members = webdataset_members(3)
    write_tar(tmp_path / "tars" / "t.tar", members)
    images = [content for name, content in members if name.endswith("jpg")]
    write_table(tmp_path / "tables" / "p.parquet", {"jpg": images, "caption": [f"alt {i}" for i in range(3)]})
    (tmp_path / "photos").mkdir()
    for name, content in members:
        (tmp_path / "photos" / name).write_bytes(content)
    shards = shards_of(*(tmp_path / name for name in ("tars", "tables", "photos")))
    assert [(shard.name, shard.kind) for shard in shards] == [
        ("tars/t", "tar"),
        ("tables/p", "parquet"),
        ("photos/00000", "folder"),
    ]
    contents = []
    for shard in shards:
        with open_shard(shard) as reader:
            assert (reader.num_samples, reader.problem, reader.identity) == (3, None, identity(shard))
            samples = list(reader.samples(np.array([1, 7])))  # a shard has become shorter
        assert {sample.shard for sample in samples} == {shard.name}
        contents.append([(sample.index, sample.image, sample.org_caption) for sample in samples])
    assert contents[0] == contents[1] == contents[2]
    assert [index for index, _, _ in contents[0]] == [0, 2]
