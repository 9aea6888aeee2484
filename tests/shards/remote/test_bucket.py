"""Inputs in an object store, a real S3 server: what is found, and what is read. Faults: test_bucket_faults.py."""

import io
from urllib.request import Request, urlopen

import numpy as np
import obstore
import pyarrow.parquet as pq
import pytest
from support import pictures, shard_files
from support.gcs_fake import GcsFake

from recap_fast.errors import ConfigError, ShardError
from recap_fast.records import Shard
from recap_fast.shards.expand import expand
from recap_fast.shards.identity import identity, image_versions
from recap_fast.shards.locate import locate
from recap_fast.shards.reader import open_shard
from recap_fast.shards.remote.access import RemoteFile, exists, file_system, read_file
from recap_fast.store.connection import connect

ALL = np.empty(0, np.int64)


def put(url, content=b"x"):
    obstore.put(*connect(url), content)


@pytest.fixture(params=["s3", "gs"])
def place(request, monkeypatch):
    """An empty bucket of a real S3 server, and of what stands in for Google's."""
    if request.param == "s3":
        yield request.getfixturevalue("s3_bucket")
        return
    with GcsFake() as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.endpoint)
        yield "gs://bucket"


@pytest.fixture
def bucket(place):
    """With some files, also with names that are odd."""
    for key in (
        *("t/00000.tar", "t/00001.tar", "t/sub/x.tar", "[2023]/a.tar", "q?x/a.tar", "p%20c/a b.tar", "ä/#1.tar"),
        *("photos/1.jpg", "photos/2.jpg", "photos/sub/3.jpg", "photos/.4.jpg", "photos.jpg"),
    ):
        put(f"{place}/{key}")
    return place


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("t/00000.tar", ["t/00000.tar"]),
        ("t/*.tar", ["t/00000.tar", "t/00001.tar"]),
        ("t/0000?.tar", ["t/00000.tar", "t/00001.tar"]),
        ("t/0000[1-9].tar", ["t/00001.tar"]),
        ("t/{00000..00001}.tar", ["t/00000.tar", "t/00001.tar"]),
        ("t", ["t/00000.tar", "t/00001.tar", "t/sub/x.tar"]),
        ("t/", ["t/00000.tar", "t/00001.tar", "t/sub/x.tar"]),
        ("t/**/*.tar", ["t/00000.tar", "t/00001.tar", "t/sub/x.tar"]),
        ("*/*.tar", ["[2023]/a.tar", "p%20c/a b.tar", "q?x/a.tar", "t/00000.tar", "t/00001.tar", "ä/#1.tar"]),
        ("[2023]/*.tar", ["[2023]/a.tar"]),
        ("[2023]/a.tar", ["[2023]/a.tar"]),
        ("q?x/a.tar", ["q?x/a.tar"]),
        ("q?x", ["q?x/a.tar"]),
        ("p%20c/a b.tar", ["p%20c/a b.tar"]),
        ("ä/*", ["ä/#1.tar"]),
        ("photos", ["photos/1.jpg", "photos/2.jpg", "photos/sub/3.jpg"]),
        ("photos/*.jpg", ["photos/.4.jpg", "photos/1.jpg", "photos/2.jpg"]),
        ("photo*/sub", ["photos/sub/3.jpg"]),
    ],
)
def test_what_a_value_stands_for(bucket, value, found):
    assert [file.url for file in locate([f"{bucket}/{value}"])] == [f"{bucket}/{name}" for name in found]


def test_the_bucket_itself_is_a_folder(bucket):
    urls = [file.url for file in locate([bucket])]
    assert len(urls) == 11
    assert [file.url for file in locate([f"{bucket}/"])] == urls


@pytest.mark.parametrize("value", ["none", "none/*.tar", "t/none.tar", "t/{5..9}.tar", "none/*/x.tar"])
def test_what_is_not_there(bucket, value):
    with pytest.raises(ConfigError, match=r"nothing matches it|does not exist"):
        locate([f"{bucket}/{value}"])


def test_an_empty_bucket_and_one_that_nobody_has(s3_bucket):
    with pytest.raises(ConfigError, match="nothing matches it"):
        locate([s3_bucket])
    for value in ("", "/a.tar", "/a", "/*.tar"):
        with pytest.raises(ConfigError, match=r"nothing matches it|does not exist|no such bucket is known"):
            locate([f"{s3_bucket}-gone{value}"])


def test_the_empty_objects_that_consoles_make_for_folders_are_no_files(s3_bucket, s3_server, caplog):
    put(f"{s3_bucket}/photos/1.jpg")
    for marker in ("photos/", "photos/empty/"):
        urlopen(Request(f"{s3_server.endpoint}/{s3_bucket[5:]}/{marker}", method="PUT")).close()
    assert [file.url for file in locate([f"{s3_bucket}/photos"])] == [f"{s3_bucket}/photos/1.jpg"]
    assert [file.url for file in locate([f"{s3_bucket}/photos/*"])] == [f"{s3_bucket}/photos/1.jpg"]
    assert caplog.text == ""


@pytest.mark.parametrize("value", ["odd", "odd/**/*.jpg"])
def test_a_key_that_cannot_be_read_is_named(s3_bucket, s3_server, value):
    urlopen(Request(f"{s3_server.endpoint}/{s3_bucket[5:]}/odd//1.jpg", method="PUT")).close()
    with pytest.raises(ConfigError, match=r'because of a key that obstore cannot read: Path "odd//1.jpg"'):
        locate([f"{s3_bucket}/{value}"])
    with pytest.raises(ConfigError, match="a part of it is empty"):
        locate([f"{s3_bucket}/odd//1.jpg"])


@pytest.mark.parametrize(
    "url",
    [
        "s3://user:s3cr3t@bucket/a.tar",
        "s3://bucket/a.tar?X-Amz-Signature=s3cr3t",
        "az://container/a.tar?sv=1&sig=s3cr3t",
        "gs://bucket/a.tar?X-Goog-Signature=s3cr3t",
    ],
)
def test_secrets_in_an_address_are_refused_and_not_shown(url):
    with pytest.raises(ConfigError, match=r"has a login|is signed") as caught:
        locate([url])
    assert "s3cr3t" not in str(caught.value)


def test_a_tar_is_read(place):
    put(f"{place}/0.tar", shard_files.tar_bytes(shard_files.webdataset_members(4)))
    with open_shard(Shard("0", f"{place}/0.tar", "tar")) as reader:
        assert [sample.org_caption for sample in reader.samples(ALL)] == [f"alt {i}" for i in range(4)]
        assert reader.identity == identity(Shard("0", f"{place}/0.tar", "tar"))
        assert reader.problem is None


def test_a_tar_that_is_gone(place):
    with (
        pytest.raises(ShardError, match=f"^{place}/0.tar is not there$"),
        open_shard(Shard("0", f"{place}/0.tar", "tar")),
    ):
        pass


def test_an_identity_is_another_one_when_the_content_is(place):
    seen = []
    for content in (b"one", b"two"):
        put(f"{place}/0.tar", content)
        seen.append(identity(Shard("0", f"{place}/0.tar", "tar")).text)
        assert identity(Shard("0", f"{place}/0.tar", "tar")).text == seen[-1]
    assert seen[0] != seen[1]


def table(tmp_path, num_rows):
    images = [pictures.encode(pictures.noise(60, 50, seed=i), "PNG") for i in range(num_rows)]
    columns = {"image": images, "caption": [f"alt {i}" for i in range(num_rows)], "url": ["u"] * num_rows}
    shard_files.write_table(tmp_path / "0.parquet", columns, row_group_size=5)
    return (tmp_path / "0.parquet").read_bytes(), images


def test_a_table_is_read_in_places(place, tmp_path):
    content, images = table(tmp_path, 20)
    put(f"{place}/0.parquet", content)
    with open_shard(Shard("0", f"{place}/0.parquet", "parquet")) as reader:
        assert [sample.image for sample in reader.samples(np.arange(5, 10))] == images[:5] + images[10:]
        assert reader.problem is None


def test_a_folder_of_images_is_read_each_by_one_request(s3_bucket, s3_faults):
    image = pictures.encode(pictures.noise(20, 16), "JPEG")
    for name in ("a.jpg", "b/c.jpg", "b/d.jpg"):
        put(f"{s3_bucket}/in/{name}", image)
    put(f"{s3_bucket}/in/a.txt", b"a caption")
    put(f"{s3_bucket}/in/b/c.json", b'{"url": "u"}')
    (source,) = expand([f"{s3_bucket}/in"]).sources
    assert [path for path, _ in source.images] == ["a.jpg", "b/c.jpg", "b/d.jpg"]
    assert image_versions(f"{s3_bucket}/in", ["a.jpg", "b/gone.jpg"])[1] is None
    s3_faults.schedule = lambda _: None
    assert read_file(f"{s3_bucket}/in/a.txt", 100)[0] == b"a caption"
    content, version = read_file(f"{s3_bucket}/in/a.jpg", 10)
    assert (content, version.text) == (None, dict(source.images)["a.jpg"])
    with pytest.raises(FileNotFoundError):
        read_file(f"{s3_bucket}/in/a.json", 100)
    assert len(s3_faults.requests) == 3


def test_a_large_folder_is_listed_by_few_requests(s3_bucket, s3_faults):
    for number in range(30):
        put(f"{s3_bucket}/in/{number % 10}/{number}.jpg")
    s3_faults.schedule = lambda _: None
    (source,) = expand([f"{s3_bucket}/in"]).sources
    assert len(source.images) == 30
    assert len(s3_faults.requests) < 10


def test_places_of_a_file(place):
    content = bytes(range(256)) * 4
    put(f"{place}/x", content)
    with io.BufferedReader(RemoteFile(f"{place}/x"), 100) as file:
        file.seek(-24, io.SEEK_END)
        assert file.read() == content[-24:]
        file.seek(1000)
        assert (file.read(10), file.read(100)) == (content[1000:1010], content[1010:])
        file.seek(3)
        assert file.read() == content[3:]


def test_pyarrow_reads_by_few_requests(s3_bucket, s3_faults, tmp_path):
    content, _ = table(tmp_path, 200)
    assert len(content) > 1_000_000
    put(f"{s3_bucket}/0.parquet", content)
    s3_faults.schedule = lambda _: None
    with pq.ParquetFile(RemoteFile(f"{s3_bucket}/0.parquet"), buffer_size=10_000, pre_buffer=False) as file:
        assert file.read().num_rows == 200
    assert len(s3_faults.requests) < 60, "one for each of the 120 columns of row groups, or more"


def test_whether_something_is_there(bucket):
    assert [exists(f"{bucket}/{name}") for name in ("t", "t/00000.tar", "t/0", "photo")] == [True, True, False, False]


def test_what_fsspec_asks_of_a_file_system(bucket):
    system, root = file_system(f"{bucket}/t")
    assert system.ls(root, detail=False) == [f"{root}/00000.tar", f"{root}/00001.tar", f"{root}/sub"]
    assert system.ls(f"{root}/00000.tar", detail=False) == [f"{root}/00000.tar"]
    assert system.find(f"{root}/00000.tar") == [f"{root}/00000.tar"]
    assert system.isdir(root)
    assert not system.isdir(f"{root}/00000.tar")
    assert system.cat_file(f"{root}/00000.tar") == b"x"
    with pytest.raises(FileNotFoundError):
        system.ls(f"{root}/none")
