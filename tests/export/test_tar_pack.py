import json
import tarfile

import pytest
from support import pictures
from support.exports import below, make_output, picture, run_export
from support.shard_files import write_table
from webdataset import tariterators


def read(path):
    with path.open("rb") as stream:
        return list(tariterators.group_by_keys(tariterators.tar_file_expander([{"url": "", "stream": stream}])))


@pytest.fixture
def photos(tmp_path):
    """A folder whose names mean something else in a webdataset, with an image that is none."""
    folder = tmp_path / "photos"
    (folder / "v1.2").mkdir(parents=True)
    for number, name in enumerate(("a.b.png", "v1.2/a.png", "v1.2/no.suffix.PNG")):
        (folder / name).write_bytes(picture(number))
    (folder / "v1.2/a.txt").write_text("alt")
    (folder / "wrong.jpg").write_bytes(pictures.encode(pictures.noise(8, 8, seed=9), "WEBP"))
    (folder / "empty.jpg").write_bytes(b"")
    return folder


def test_a_folder_becomes_what_img2dataset_would_have_written(photos, tmp_path):
    result = run_export(make_output(tmp_path / "out", photos), "webdataset", tmp_path / "tars", columns="status")
    (name,) = below(tmp_path / "tars")
    samples = read(tmp_path / "tars" / name)
    files = ["a.b.png", "empty.jpg", "v1.2/a.png", "v1.2/no.suffix.PNG", "wrong.jpg"]
    by_file = {json.loads(sample["json"])["file_name"]: sample for sample in samples}
    assert sorted(by_file) == files
    assert len({sample["__key__"] for sample in samples}) == 5
    assert all(sample["__key__"].isdigit() for sample in samples)
    for file, sample in by_file.items():
        suffix = {"empty.jpg": None, "wrong.jpg": "webp"}.get(file, "png")
        suffixes = {suffix, "json", "txt" if file == "v1.2/a.png" else None} - {None}
        assert {key for key in sample if key[0] != "_"} == suffixes
        if suffix:
            assert sample[suffix] == (photos / file).read_bytes()
        fields = json.loads(sample["json"])
        assert fields["key"] in file
        assert fields["re_caption"] == (f"caption {int(sample['__key__'][5:])} of 00000" if suffix else None)
        assert fields["status"] == ("ok" if suffix else "empty_image")
    assert by_file["v1.2/a.png"]["txt"] == b"alt"
    assert json.loads(by_file["v1.2/a.png"]["json"])["org_caption"] == "alt"
    assert result.verified == "10 members read back, and as they were written"
    content = (tmp_path / "tars" / name).read_bytes()
    assert len(content) % tarfile.RECORDSIZE == 0
    assert content.endswith(bytes(1024))


def test_a_table_with_its_metadata_and_one_drawn_caption(tmp_path):
    images = [picture(number) for number in range(3)]
    columns = {"image": images, "text": ["one", None, "three"], "rating": [1.5, 2.5, 3.5]}
    write_table(tmp_path / "in/00000.parquet", columns)
    run_export(make_output(tmp_path / "out", tmp_path / "in"), "webdataset", tmp_path / "tars", mix_p=1.0)
    samples = read(tmp_path / "tars/00000.tar")
    assert [sample["png"] for sample in samples] == images
    assert [sample["txt"] for sample in samples] == [b"one", b"caption 1 of 00000", b"three"]
    assert [json.loads(sample["json"])["rating"] for sample in samples] == [1.5, 2.5, 3.5]
    assert not any("re_caption" in json.loads(sample["json"]) for sample in samples)


def test_the_same_bytes_each_time_and_without_those_that_are_left_out(photos, tmp_path):
    output = make_output(tmp_path / "out", photos)
    for name in ("one", "two"):
        run_export(output, "webdataset", tmp_path / name, skip="failed")
    assert below(tmp_path / "one") == below(tmp_path / "two")
    (name,) = below(tmp_path / "one")
    assert len(read(tmp_path / "one" / name)) == 4
    with tarfile.open(tmp_path / "one" / name) as tar:
        assert all(info.mtime == 0 for info in tar)


def test_an_image_that_was_changed_is_refused(photos, tmp_path):
    output = make_output(tmp_path / "out", photos)
    (photos / "a.b.png").write_bytes(picture(7))
    result = run_export(output, "webdataset", tmp_path / "tars")
    assert "has another image at index" in result.problems[0]
    assert below(tmp_path / "tars") == {}


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_an_image_that_is_gone_is_a_problem_and_no_sample_without_image(tmp_path, kind):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        (tmp_path / f"photos/{number}.png").write_bytes(picture(number))
    output = make_output(tmp_path / "out", tmp_path / "photos")
    (tmp_path / "photos/1.png").unlink()
    result = run_export(output, kind, tmp_path / "to")
    assert (result.exit_code, result.shards) == (1, 0)
    assert result.problems == [f"{tmp_path}/photos has no image 1 any more: 1.png is gone"]
    assert below(tmp_path / "to") == {}
