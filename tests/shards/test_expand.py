import os

import pytest
from support.ledgers import shards_of
from support.shard_files import webdataset_members, write_table, write_tar

from recap_fast.errors import ConfigError
from recap_fast.records import Selection
from recap_fast.shards.expand import expand


@pytest.fixture
def data(tmp_path):
    """Three tars as img2dataset writes them: with a table of metadata and statistics beside each."""
    for i in range(3):
        write_tar(tmp_path / "data" / f"{i:05d}.tar", webdataset_members(1))
        write_table(tmp_path / "data" / f"{i:05d}.parquet", {"url": ["x"], "key": ["0"]})
        (tmp_path / "data" / f"{i:05d}_stats.json").write_text("{}")
    return tmp_path / "data"


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(*values, selection=None):
    return [shard.name for shard in shards_of(*values, selection=selection)]


def listed(source):
    return tuple(path for path, _ in source.images)


def test_braces_globs_folders_and_lists_name_the_same_shards(data, tmp_path, monkeypatch):
    expected = ["00000", "00001", "00002"]
    assert names(data / "{00000..00002}.tar") == expected
    assert names(data / "*.tar") == expected
    assert names(data / "*") == expected
    assert names(data) == expected
    assert names(data / "00000.tar", data / "0000[12].tar") == expected
    (tmp_path / "list.txt").write_text(f"# the data\n\n{data}/00000.tar\n  data/{{00001..00002}}.tar \n")
    monkeypatch.chdir(tmp_path)
    assert names("@list.txt") == expected
    assert names("data/*.tar") == expected


def test_tables_of_metadata_are_no_shards_and_kinds_and_urls_are_told(data):
    inputs = expand([str(data)])
    assert inputs.root == str(data)
    assert [(s.kind, s.url) for s in inputs.sources] == [("tar", f"{data}/0000{i}.tar") for i in range(3)]


def test_a_file_counts_once(data):
    again = (f"{data}/../data/00000.tar", f"file://{data}/00000.tar")
    assert names(data / "00000.tar", data, *again) == ["00000", "00001", "00002"]


def test_names_are_paths_below_the_common_parent(data, tmp_path):
    write_tar(tmp_path / "more" / "a.b" / "x.y.tar", [])
    assert names(data / "00000.tar", tmp_path / "more") == ["data/00000", "more/a.b/x.y"]
    assert names(tmp_path / "more" / "a.b" / "x.y.tar") == ["x.y"]


def test_upper_case_suffixes_and_odd_names(tmp_path):
    for name in ("A.TAR", "b [1].tar", "{x}.tar"):
        write_tar(tmp_path / name, [])
    assert [source.url for source in expand([str(tmp_path)]).sources] == [
        f"{tmp_path}/{name}.{suffix}" for name, suffix in (("A", "TAR"), ("b [1]", "tar"), ("{x}", "tar"))
    ]
    assert names(tmp_path) == ["A", "b -1-", "-x-"]
    assert names(tmp_path / "b [1].tar", tmp_path / "{x}.tar") == ["b -1-", "-x-"]


@pytest.mark.parametrize("value", ["{0..3}.tar", "*.tar", "gone.tar", "empty", "gone/*", "gone/**/*.tar"])
def test_what_matches_nothing_is_named(tmp_path, value):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as error:
        names(tmp_path / value)
    assert str(error.value).startswith(f"--shards {tmp_path / value}: nothing matches it")


def test_an_empty_value_is_not_the_current_folder(data, monkeypatch):
    monkeypatch.chdir(data)
    assert names(".") == ["00000", "00001", "00002"]
    with pytest.raises(ConfigError, match="nothing matches it"):
        names("")


def test_missing_shards_among_others_stay_to_be_recorded_as_failed(data):
    assert names(data / "{00002..00003}.tar") == ["00002", "00003"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{}/x.tar.gz", "x.tar.gz is compressed"),
        ("{}/x.tgz", "compressed"),
        ("{}/notes.md", "notes.md is not a tar, Parquet file"),
        ("@{}/gone.txt", r"@.*gone\.txt: the list cannot be read"),
    ],
)
def test_files_of_other_kinds_and_missing_lists_are_refused(tmp_path, value, message):
    touch(tmp_path, "x.tar.gz", "x.tgz", "notes.md")
    with pytest.raises(ConfigError, match=message):
        names(value.format(tmp_path))


def test_inputs_that_would_have_one_name_are_both_taken(tmp_path):
    write_tar(tmp_path / "a.tar", [])
    write_table(tmp_path / "a.parquet", {"image": [b"x"]})
    assert [(shard.name, shard.kind) for shard in shards_of(tmp_path)] == [("a", "parquet"), ("a-2", "tar")]


def test_parquet_with_images_is_a_shard(tmp_path):
    write_table(tmp_path / "p.parquet", {"jpg": [b"x"], "url": ["u"]})
    write_table(tmp_path / "meta.parquet", {"url": ["u"]})
    assert names(tmp_path) == ["p"]
    assert [source.kind for source in expand([str(tmp_path / "p.parquet")]).sources] == ["parquet"]


def test_parquet_without_images_alone_is_refused_with_its_columns(data, tmp_path):
    with pytest.raises(ConfigError, match=r"00000\.parquet has no column with image bytes; its columns are: url, key"):
        names(data / "00000.parquet")
    with pytest.raises(ConfigError, match="has no column with image bytes"):
        names(data / "*.parquet")
    other = write_table(tmp_path / "other" / "x.parquet", {"a": [1]})
    with pytest.raises(ConfigError, match=r"x\.parquet has no column"):
        names(data / "00000.tar", other)
    assert names(data / "00000.tar", data / "00001.parquet") == ["00000"]


def test_columns_that_the_user_names(tmp_path):
    path = write_table(tmp_path / "p.parquet", {"picture": [b"x"], "image": [b"y"], "n": [1]})
    assert names(path, selection=Selection(image_column="picture")) == ["p"]
    with pytest.raises(ConfigError, match=r"no column 'gone'; the columns are: picture, image, n"):
        names(path, selection=Selection(image_column="gone"))
    with pytest.raises(ConfigError, match="column 'n' holds int64, not image bytes"):
        names(path, selection=Selection(image_column="n"))


def test_unreadable_parquet_is_a_shard_that_will_fail_unless_it_is_beside_its_tar(tmp_path):
    touch(tmp_path, "broken.parquet")
    assert names(tmp_path) == ["broken"]
    write_tar(tmp_path / "broken.tar", [])
    assert [source.kind for source in expand([str(tmp_path)]).sources] == ["tar"]


def test_loose_images_are_listed_with_their_versions_and_become_units_of_a_thousand(tmp_path, monkeypatch):
    monkeypatch.setattr("recap_fast.write.units.UNIT_IMAGES", 3)
    touch(tmp_path / "photos", "b/2.JPG", "b/1.png", "a.jpg", "c.webp", "c.txt", ".hidden.jpg", ".dir/x.jpg")
    os.utime(tmp_path / "photos" / "a.jpg", ns=(0, 5))
    (source,) = expand([str(tmp_path / "photos")]).sources
    assert (source.url, source.kind) == (str(tmp_path / "photos"), "folder")
    assert listed(source) == ("a.jpg", "b/1.png", "b/2.JPG", "c.webp")
    assert source.images[0] == ("a.jpg", "1:5")
    units = shards_of(tmp_path / "photos")
    assert [(u.name, u.kind, [file.path for file in u.files]) for u in units] == [
        ("00000", "folder", ["a.jpg", "b/1.png", "b/2.JPG"]),
        ("00001", "folder", ["c.webp"]),
    ]
    assert units[0].url == str(tmp_path / "photos")
    touch(tmp_path / "more", "x.jpg")
    assert names(tmp_path / "photos", tmp_path / "more") == ["photos/00000", "photos/00001", "more/00000"]


def test_images_by_glob_are_one_folder_with_those_that_were_asked_for(tmp_path):
    touch(tmp_path, "p/a.jpg", "p/b.png", "p/c.webp", "q/c.jpg")
    (source,) = expand([f"{tmp_path}/p/*.jpg", f"{tmp_path}/p/*.png"]).sources
    assert (source.url, listed(source)) == (f"{tmp_path}/p", ("a.jpg", "b.png"))
    assert names(f"{tmp_path}/p/*.jpg", f"{tmp_path}/p/*.png") == ["00000"]
    assert names(f"{tmp_path}/*") == ["p/00000", "q/00000"]


def test_hidden_images_and_folders_are_counted(tmp_path, caplog):
    touch(tmp_path, "a.jpg", ".b.jpg", ".DS_Store", ".git/c.jpg", "d/.e.png", "d/.f/.g.png")
    assert [path for path, _ in expand([str(tmp_path)]).sources[0].images] == ["a.jpg"]
    assert "hidden files and folders are skipped: 4" in caplog.text


def test_the_folder_of_an_exports_records_is_passed_over_in_silence(tmp_path, caplog):
    """Texts beside the images have it, and a run over them had a warning each time."""
    touch(tmp_path, "a.jpg", "a.txt", ".recap-fast/lock", ".recap-fast/txt.txt/shards/00000.json")
    assert [path for path, _ in expand([str(tmp_path)]).sources[0].images] == ["a.jpg"]
    assert "hidden" not in caplog.text


def test_of_two_links_to_a_folder_the_first_by_name_is_followed(tmp_path):
    touch(tmp_path / "elsewhere", "1.jpg")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b", "a", "c"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    assert [path for path, _ in expand([str(folder)]).sources[0].images] == ["a/1.jpg"]


def test_links_in_circles_end(tmp_path):
    touch(tmp_path, "a/x.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    assert listed(expand([str(tmp_path / "a")]).sources[0]) == ("x.jpg",)


def test_inputs_on_different_systems_have_no_common_parent(data, memory):
    memory.pipe("/bucket/x.tar", b"x")
    given = (str(data / "00000.tar"), "memory://bucket/x.tar")
    assert expand(given).root == ""
    assert names(*given) == [f"{str(data).strip('/')}/00000", "memory/bucket/x"]


def test_urls(memory):
    for name in ("a/0.tar", "a/1.tar", "a/deep/2.tar", "a/photos/x.jpg", "a/notes.md"):
        memory.pipe(f"/b/{name}", b"x")
    assert names("memory://b/a/*.tar") == ["0", "1"]
    assert names("memory://b/a/{0..1}.tar") == ["0", "1"]
    assert names("memory://b/a") == ["0", "1", "deep/2", "00000"]
    assert names("memory://b/a/**/*.tar") == ["0", "1", "deep/2"]
    sources = expand(["memory://b/a/"]).sources
    assert [s.url for s in sources] == [*(f"memory://b/a/{n}.tar" for n in ("0", "1", "deep/2")), "memory://b/a"]
    assert listed(sources[-1]) == ("photos/x.jpg",)
    with pytest.raises(ConfigError, match="'\\*\\*' can only be an entire path component"):
        names("memory://b/a/**.tar")
    memory.pipe("/b/list.txt", b"memory://b/a/0.tar\n")
    assert names("@memory://b/list.txt") == ["0"]
    for value in ("memory://b/gone.tar", "memory://b/gone/*.tar", "memory://gone"):
        with pytest.raises(ConfigError, match=r"--shards memory://.*(nothing matches it|does not exist|is not a tar)"):
            names(value)


@pytest.mark.parametrize("value", ["{}", "{}/*"])
def test_compressed_tars_beside_others_are_named_not_passed_over_in_silence(tmp_path, caplog, value):
    for name in ("00000.tar", "00001.tar.gz", "00002.tgz"):
        (tmp_path / name).write_bytes(b"")
    assert names(value.format(tmp_path)) == ["00000"]
    assert f"compressed tars are left out, unpack them first: {tmp_path}/00001.tar.gz and 1 more" in caplog.text


def test_an_output_within_the_inputs_is_passed_over_unless_there_is_nothing_else(data, caplog, monkeypatch):
    touch(data, "out/data/00000.parquet", "out/partial/00001/x.parquet")
    folders = ("data/out/data", str(data / "out/partial"))
    monkeypatch.chdir(data.parent)
    assert [source.url for source in expand([str(data)], outputs=folders).sources] == [
        f"{data}/0000{i}.tar" for i in range(3)
    ]
    assert caplog.text == ""
    assert len(expand([str(data)]).sources) == 5, "a file that cannot be read is a shard otherwise"
    assert len(expand([str(data / "out")], outputs=folders).sources) == 2
