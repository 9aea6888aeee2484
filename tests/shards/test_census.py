"""What is counted is what a run will have as rows; what is not counted is estimated by bytes, and said to be."""

import json
from itertools import pairwise

import obstore
import pytest
from support.shard_files import tar_bytes, webdataset_members, write_table, write_tar

from recap_fast.records import Selection, Shard
from recap_fast.shards import census
from recap_fast.shards.census import Effort, Extrapolation, Tally, extrapolate, take_census
from recap_fast.shards.counting import Count
from recap_fast.shards.expand import expand
from recap_fast.shards.reader import open_shard
from recap_fast.shards.remote.bucket import ObjectFiles
from recap_fast.store.connection import connect


def counted(*values, selection=None, progress=lambda done, total: None):
    shards = expand([str(value) for value in values], selection).unregistered()
    return take_census(shards, selection or Selection(), progress)


def rows(*values, selection=None):
    num = 0
    for shard in expand([str(value) for value in values], selection).unregistered():
        with open_shard(shard, selection) as reader:
            num += reader.num_samples
    return num


def tars(folder, *counts):
    for number, count in enumerate(counts):
        write_tar(folder / f"{number:05d}.tar", webdataset_members(count))
    return folder


def of_size(images, size_bytes):
    return Count(shard=Shard("a", "/a", "tar"), images=images, size_bytes=size_bytes, seen_bytes=size_bytes)


# -- counted -----------------------------------------------------------------------------------------------------------


def test_each_kind_of_shard_is_counted_where_its_number_stands(tmp_path):
    tars(tmp_path / "web", 7, 4)
    (tmp_path / "web/00000_stats.json").write_text(json.dumps({"count": 9, "successes": 7}))
    write_table(tmp_path / "web/table.parquet", {"jpg": [b"image"] * 5})
    for name in ("a.jpg", "b.png", "deep/c.webp"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"12345")
    found = counted(tmp_path / "web", tmp_path / "photos")
    sizes = [(tmp_path / "web" / name).stat().st_size for name in ("00000.tar", "00001.tar", "table.parquet")]
    assert found.counted == {
        "stats": Tally(1, 7, sizes[0]),
        "headers": Tally(1, 4, sizes[1]),
        "footer": Tally(1, 5, sizes[2]),
        "listing": Tally(1, 3, 15),
    }
    assert found.total == Tally(4, 19, sum(sizes) + 15)
    assert (found.estimated, found.problems, found.num_estimated) == ((), (), 0)
    assert found.total.images == rows(tmp_path / "web", tmp_path / "photos")


@pytest.mark.parametrize(
    "stats",
    [
        *("", "{", "[]", "7", "{}", '{"count": 3}', '{"successes": -1}', '{"successes": 2.0}', '{"successes": true}'),
        *('{"successes": "3"}', '{"successes": null}', "[" * 100_000, " " * (1 << 20) + '{"successes": 9}'),
    ],
    ids=lambda stats: stats.strip()[:20],
)
def test_where_stats_do_not_say_it_the_headers_do(tmp_path, stats):
    tars(tmp_path, 3)
    (tmp_path / "00000_stats.json").write_text(stats)
    found = counted(tmp_path)
    assert {origin: tally.images for origin, tally in found.counted.items()} == {"headers": 3}


@pytest.mark.parametrize(
    "selection", [Selection(), Selection(images="all"), Selection(image_key="left")], ids=["first", "all", "key"]
)
def test_samples_of_several_images(tmp_path, selection):
    members = [(f"{key}.{name}.jpg", b"image") for key in range(3) for name in ("left", "right")]
    write_tar(tmp_path / "a.tar", [*members, ("3.json", b'{"caption": "lost"}'), ("README.md", b"x")])
    write_table(tmp_path / "b.parquet", {"left": [b"\xff\xd8\xff1", None], "right": [b"\xff\xd8\xff2"] * 2})
    found = counted(tmp_path, selection=selection)
    assert found.total.images == rows(tmp_path, selection=selection)
    assert not found.estimated


def test_a_footer_that_does_not_count_the_images_of_its_rows_says_no_more_than_the_rows(tmp_path):
    lists = [[b"\xff\xd8\xff1", b"\xff\xd8\xff2"], [b"\xff\xd8\xff3"], []]
    write_table(tmp_path / "told.parquet", {"images": lists[:2]})
    write_table(tmp_path / "untold.parquet", {"images": lists}, write_statistics=False)
    everything = Selection(images="all")
    found = counted(tmp_path, selection=everything)
    images = {origin: tally.images for origin, tally in found.counted.items()}
    assert images == {"footer": 3, "rows": 3}
    assert rows(tmp_path / "told.parquet", selection=everything) == 3
    assert counted(tmp_path).total.images == 5


def test_what_cannot_be_read_has_no_images_and_says_why(tmp_path):
    tars(tmp_path, 5, 5)
    content = (tmp_path / "00001.tar").read_bytes()
    (tmp_path / "00001.tar").write_bytes(content[: len(content) // 2])
    (tmp_path / "00002.tar").write_bytes(b"this is no tar" * 100)
    (tmp_path / "00003.tar").write_bytes(b"")
    (tmp_path / "00005.parquet").write_bytes(b"this is no table")
    whole = [f"{tmp_path}/0000{number}.tar" for number in (0, 1)]
    found = counted(*whole, f"{tmp_path}/{{00002..00004}}.tar", f"{tmp_path}/00005.parquet")
    assert found.counted["headers"].images == rows(*whole) < 10
    assert (found.unreadable.shards, found.unreadable.images) == (4, 0)
    said = {problem.url.rpartition("/")[2]: problem.text for problem in found.problems}
    assert said["00001.tar"].startswith("cut off at byte ")
    assert said["00002.tar"].startswith("is not a tar: ")
    assert said["00003.tar"] == "is not a tar: it has 0 bytes"
    assert said["00004.tar"] == "is not there"
    assert said["00005.parquet"].startswith("is not a readable Parquet file: ")
    assert len(said) == 5


def test_progress_is_told_of_every_shard_and_never_goes_beyond(tmp_path, monkeypatch):
    monkeypatch.setattr(census, "LOCAL", Effort(2, 5))
    told = []
    counted(tars(tmp_path, *[5] * 9), progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 9), (2, 9), (9, 9)]


# -- estimated ---------------------------------------------------------------------------------------------------------


def test_of_many_tars_some_are_counted_and_the_others_estimated_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(census, "LOCAL", Effort(2, 25))
    tars(tmp_path, *[10] * 12)
    size = (tmp_path / "00000.tar").stat().st_size
    found = counted(tmp_path)
    assert found.counted == {"headers": Tally(4, 40, 4 * size)}
    assert found.estimated == (Extrapolation(Tally(8, 80, 8 * size), Tally(4, 40, 4 * size), margin=0.0),)
    assert found.total == Tally(12, 120, 12 * size)


def test_the_sample_is_spread_over_all_tars(tmp_path, monkeypatch):
    opened = []
    looked_at = census.count_headers
    monkeypatch.setattr(census, "LOCAL", Effort(8, 1))
    monkeypatch.setattr(
        census, "count_headers", lambda count, which: opened.append(count.shard.url) or looked_at(count, which)
    )
    counted(tars(tmp_path, *[2] * 64))
    places = [-1, *sorted(int(url.rpartition("/")[2][:5]) for url in opened), 64]
    assert len(opened) == 8
    assert max(after - before for before, after in pairwise(places)) <= 2 * 64 / 8


def test_sampling_goes_on_where_tars_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(census, "LOCAL", Effort(1, 1))
    for number in range(4):
        (tmp_path / f"{number:05d}.tar").write_bytes(b"no tar" * 100)
    write_tar(tmp_path / "00004.tar", webdataset_members(3))
    found = counted(tmp_path)
    assert found.counted["headers"].images == 3
    assert found.unreadable.shards + found.counted["headers"].shards + sum(
        each.tally.shards for each in found.estimated
    ) == len(list(tmp_path.iterdir()))


def test_an_estimate_and_its_margin_by_hand():
    # 30 images in 200 bytes are 0.15 a byte: the samples are 5 off, up and down.
    # s^2 = (25 + 25) / 1, the error of the sum of both is sqrt(2 x 50) = 10 images, two of them are 20 of 30
    found = extrapolate([of_size(None, 1000), of_size(None, 3000)], [of_size(10, 100), of_size(20, 100)])
    assert found.tally == Tally(2, 600, 4000)
    assert found.sample == Tally(2, 30, 200)
    assert found.margin == pytest.approx(20 / 30)


@pytest.mark.parametrize(
    ("sample", "images"), [([], 0), ([of_size(0, 100), of_size(0, 200)], 0), ([of_size(1, 9)], 111)]
)
def test_a_sample_of_none_or_one_has_no_margin(sample, images):
    assert extrapolate([of_size(None, 1000)], sample).tally.images == images
    assert extrapolate([of_size(None, 1000)], sample).margin is None


# -- remote ------------------------------------------------------------------------------------------------------------


def test_remote_stats_and_sizes_come_from_the_listing(memory):
    for number in range(3):
        memory.pipe(f"/web/{number:05d}.tar", tar_bytes(webdataset_members(4)))
    memory.pipe("/web/00001_stats.json", b'{"successes": 4}')
    memory.pipe("/photos/a.jpg", b"12345")
    found = counted("memory://web/{00000..00003}.tar", "memory://photos")
    size = len(tar_bytes(webdataset_members(4)))
    assert found.counted == {
        "stats": Tally(1, 4, size),
        "headers": Tally(2, 8, 2 * size),
        "listing": Tally(1, 1, 5),
    }
    assert [(problem.url, problem.text) for problem in found.problems] == [("memory://web/00003.tar", "is not there")]


def test_of_remote_tars_the_start_is_counted(memory, monkeypatch):
    from recap_fast.shards.tar import start

    monkeypatch.setattr(start, "START_BYTES", 100_000)
    monkeypatch.setattr(start, "FEW_ROWS", 10)
    monkeypatch.setattr(census, "REMOTE", Effort(2, 1))
    content = tar_bytes(webdataset_members(500))
    for number in range(6):
        memory.pipe(f"/web/{number}.tar", content)
    found = counted("memory://web/*.tar")
    assert found.counted == {}
    ((tally, sample, margin),) = [(each.tally, each.sample, each.margin) for each in found.estimated]
    assert (tally.shards, tally.size_bytes) == (6, 6 * len(content))
    assert tally.images == pytest.approx(3000, rel=0.03)
    assert (sample.shards, sample.size_bytes) == (2, 200_000)
    assert margin == 0.0


def test_a_bucket_is_listed_and_of_a_large_tar_the_start_is_read(s3_bucket, tmp_path, monkeypatch):
    from recap_fast.shards.tar import start

    monkeypatch.setattr(start, "START_BYTES", 100_000)
    monkeypatch.setattr(start, "FEW_ROWS", 10)
    content = tar_bytes([*webdataset_members(300), ("last.jpg", bytes(24 << 20))])
    write_table(tmp_path / "table.parquet", {"jpg": [b"image"] * 5})
    files = {"a.tar": content, "b.tar": content, "b_stats.json": b'{"successes": 301}'}
    files["c.parquet"] = (tmp_path / "table.parquet").read_bytes()
    for name, body in files.items():
        obstore.put(*connect(f"{s3_bucket}/web/{name}"), body, use_multipart=False)
    ends, get_from = [], ObjectFiles.get_from
    monkeypatch.setattr(ObjectFiles, "get_from", lambda self, *which: ends.append(which[2]) or get_from(self, *which))
    found = counted(f"{s3_bucket}/web/{{a,b,d}}.tar", f"{s3_bucket}/web/c.parquet")
    images = {origin: tally.images for origin, tally in found.counted.items()}
    assert images == {"stats": 301, "footer": 5}
    assert [(each.tally.shards, each.sample.size_bytes) for each in found.estimated] == [(1, 100_000)]
    assert [problem.text for problem in found.problems] == ["is not there"]
    assert 0 < max(ends) < len(content) // 2
