import logging

import pytest
from support.shard_files import webdataset_members, write_table, write_tar

from recap_fast.errors import ConfigError
from recap_fast.records import Selection
from recap_fast.shards.locate import locate
from recap_fast.shards.table.finding import without_tables_of_metadata

JPEG = b"\xff\xd8\xff" + b"a" * 30


def kept(folder, **selection):
    files = without_tables_of_metadata(locate([str(folder)]), Selection(**selection))
    return [file.url.rpartition("/")[2] for file in files]


def test_a_file_that_cannot_be_read_is_a_shard_that_will_fail(tmp_path):
    write_table(tmp_path / "a.parquet", {"image": [JPEG]})
    bad = write_table(tmp_path / "b.parquet", {"image": [JPEG], "name": [1]}, store_schema=False)
    bad.write_bytes(bad.read_bytes().replace(b"name", b"nam\xe9"))
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and no more")
    write_table(tmp_path / "d.parquet", {"": [JPEG]})
    assert kept(tmp_path) == ["a.parquet", "b.parquet", "c.parquet", "d.parquet"]


def test_a_table_of_metadata_beside_images_is_passed_over_with_a_word(tmp_path, caplog):
    write_tar(tmp_path / "0.tar", webdataset_members(1))
    write_table(tmp_path / "0.parquet", {"url": [b"http://x"], "hash": [b"\0" * 8]})
    with caplog.at_level(logging.WARNING):
        assert kept(tmp_path) == ["0.tar"]
    assert caplog.text == ""
    write_table(tmp_path / "other.parquet", {"picture": [b"\0" * 99], "mask": [b"\1" * 99]})
    with caplog.at_level(logging.WARNING):
        assert kept(tmp_path) == ["0.tar"]
    assert "other.parquet is skipped: it has no column that is known to hold images; name one with" in caplog.text


def test_the_metadata_of_a_folder_of_images_is_no_shard_whatever_its_columns(tmp_path):
    columns = {"file_name": ["d/a.jpg"], "thumbnail": [JPEG]}
    (tmp_path / "in/d").mkdir(parents=True)
    (tmp_path / "in/d/a.jpg").write_bytes(JPEG)
    write_table(tmp_path / "in/metadata.parquet", columns)
    write_table(tmp_path / "in/table.parquet", columns)
    write_table(tmp_path / "alone/metadata.parquet", columns)
    write_table(tmp_path / "in/d/metadata.parquet", {"image": [JPEG]})
    assert sorted(kept(tmp_path)) == ["a.jpg", "metadata.parquet", "metadata.parquet", "table.parquet"]
    assert sorted(kept(tmp_path / "in")) == ["a.jpg", "metadata.parquet", "table.parquet"]


def test_a_table_of_metadata_alone_is_refused(tmp_path):
    write_table(tmp_path / "p.parquet", {"url": ["x"]})
    with pytest.raises(ConfigError, match="has no column with image bytes; its columns are: url"):
        kept(tmp_path)


def test_a_column_that_the_user_names_and_a_file_with_images_has_not(tmp_path):
    write_table(tmp_path / "p.parquet", {"image": [JPEG]})
    with pytest.raises(ConfigError, match=r"p\.parquet: there is no column 'picture'; the columns are: image"):
        kept(tmp_path, image_column="picture")
