"""Text files for trainers: beside the images or apart, and never over what others wrote."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.exports import NASTY, below, make_output, picture, run_export
from support.shard_files import webdataset_members, write_tar

from recap_fast.errors import ConfigError, RecapError
from recap_fast.export.sidecars import one_line
from recap_fast.write.output_folder import OutputFolder

NAMES = ["a.png", "b c.PNG", "sub/a.jpg", "sub/b.tar.png", "sub/x\ny.png", "\u4e00\u00e9.png"]


def write_photos(folder: Path, *names: str) -> dict[str, bytes]:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))
    return {name: (folder / name).read_bytes() for name in names}


def captioned(row: dict[str, Any]) -> None:
    row["re_caption"] = f"of {row['file_name']}"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", *NAMES)
    return tmp_path / "photos"


@pytest.fixture
def made(tmp_path: Path, photos: Path) -> OutputFolder:
    return make_output(tmp_path / "out", photos, change=captioned)


def texts(folder: Path, extension: str = ".txt") -> dict[str, str]:
    return {name: content.decode() for name, content in below(folder).items() if name.endswith(extension)}


EXPECTED = {f"{name.rpartition('.')[0]}.txt": one_line(f"of {name}") for name in NAMES}


def test_texts_lie_apart_as_the_images_lie_in_their_folder(made: OutputFolder, photos: Path, tmp_path: Path) -> None:
    result = run_export(made, "txt", tmp_path / "to")
    assert texts(tmp_path / "to") == EXPECTED
    assert sorted(below(tmp_path / "to")) == sorted(EXPECTED)
    assert result.counts == {"samples": 6, "captions": 6}
    assert sorted(below(photos)) == sorted(NAMES)


def test_texts_lie_beside_the_images(made: OutputFolder, photos: Path) -> None:
    before = below(photos)
    run_export(made, "txt", None, beside=True)
    assert texts(photos) == EXPECTED
    assert {name: content for name, content in below(photos).items() if name in before} == before


def test_a_trainer_finds_the_caption_of_each_image(made: OutputFolder, photos: Path) -> None:
    """As kohya's sd-scripts read a caption."""
    run_export(made, "txt", None, beside=True, extension=".caption")
    for name in NAMES:
        with (photos / name).with_suffix(".caption").open(encoding="utf-8") as file:
            assert file.readlines()[0].strip() == one_line(f"of {name}")


def test_moved_images_are_followed(made: OutputFolder, photos: Path, tmp_path: Path) -> None:
    there = photos.rename(tmp_path / "there")
    run_export(made, "txt", None, beside=True, relocate=[f"{photos}={there}"])
    assert texts(there) == EXPECTED
    run_export(made, "txt", None, beside=True, shards=[str(there)], extension=".caption")
    assert len(texts(there, ".caption")) == 6


def test_one_of_several_folders_has_the_texts_where_its_images_are(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_photos(tmp_path / "in" / name, "1.png")
    output = make_output(tmp_path / "out", tmp_path / "in/x", tmp_path / "in/y")
    run_export(output, "txt", None, beside=True)
    assert sorted(texts(tmp_path / "in")) == ["x/1.txt", "y/1.txt"]


def test_a_caption_is_one_line_and_without_one_there_is_no_file(photos: Path, tmp_path: Path) -> None:
    captions = [NASTY, None, "", " \n ", "a\u2028b\x0bc\r\nd", "ok"]

    def change(row: dict[str, Any]) -> None:
        row["re_caption"] = captions[row["index"]]

    output = make_output(tmp_path / "out", photos, change=change)
    run_export(output, "txt", tmp_path / "to")
    found = list(texts(tmp_path / "to").values())
    assert sorted(found) == sorted([one_line(NASTY), "a b c d", "ok"])
    assert all(len(text.splitlines()) == 1 for text in found)


def test_images_that_share_a_stem_have_a_text_each(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", "a.jpg", "a.png", "a.png.jpg", "b.png")
    output = make_output(tmp_path / "out", tmp_path / "in", change=captioned)
    result = run_export(output, "txt", tmp_path / "to")
    found = texts(tmp_path / "to")
    assert sorted(found.values()) == [f"of {name}" for name in ("a.jpg", "a.png", "a.png.jpg", "b.png")]
    assert found["a.txt"] == "of a.jpg"
    assert found["b.txt"] == "of b.png"
    assert result.counts["shared stems"] == 2
    assert any("with the name of another image" in line for line in result.advice)


def test_of_tars_and_tables_there_is_a_folder_for_each_shard(tmp_path: Path) -> None:
    image, long = picture(1), "x" * 250
    keys = ["k", "K", "../../up", "/abs", "a b", "line\nbreak", ".hidden", long, "\u4e00"]
    write_tar(tmp_path / "in/a/b.tar", webdataset_members(2))
    table = pa.table({"key": keys, "image": [image] * len(keys)})
    pq.write_table(table, tmp_path / "in/t.parquet")
    output = make_output(tmp_path / "out", tmp_path / "in/a/b.tar", tmp_path / "in/t.parquet")
    run_export(output, "txt", tmp_path / "to")
    found = texts(tmp_path / "to")
    assert found["a/b/000000001.txt"] == "caption 1 of a/b"
    others = sorted(found.keys() - {"a/b/000000000.txt", "a/b/000000001.txt"})
    assert len(others) == len(keys)
    assert len({name.casefold() for name in others}) == len(keys)
    assert sorted(found[name] for name in others) == sorted(f"caption {i} of t" for i in range(len(keys)))
    assert all(name.startswith("t/") for name in others)
    assert not (tmp_path / "up.txt").exists()


def test_a_text_that_we_did_not_write_stays(made: OutputFolder, photos: Path) -> None:
    """In a folder of img2dataset, NAME.txt is the caption that came with the image."""
    (photos / "sub/a.txt").write_text("the original caption")
    before = below(photos)
    with pytest.raises(ConfigError, match=r"sub/a\.txt is there already, and this export did not write it"):
        run_export(made, "txt", None, beside=True)
    assert below(photos) == before
    run_export(made, "txt", None, beside=True, extension=".caption")
    assert (photos / "sub/a.txt").read_text() == "the original caption"


def test_overwrite_replaces_it(made: OutputFolder, photos: Path) -> None:
    (photos / "sub/a.txt").write_text("the original caption")
    run_export(made, "txt", None, beside=True, overwrite=True)
    assert texts(photos) == EXPECTED


def test_a_text_that_was_changed_since_is_not_ours(made: OutputFolder, photos: Path) -> None:
    run_export(made, "txt", None, beside=True)
    assert run_export(made, "txt", None, beside=True).already == 1
    (photos / "a.txt").write_text("corrected by hand")
    with pytest.raises(ConfigError, match=r"a\.txt is there already"):
        run_export(made, "txt", None, beside=True)
    assert (photos / "a.txt").read_text() == "corrected by hand"


def test_new_captions_replace_our_texts(photos: Path, tmp_path: Path) -> None:
    output = make_output(tmp_path / "out", photos, change=captioned)
    run_export(output, "txt", None, beside=True)
    (tmp_path / "out").rename(tmp_path / "old")
    other = make_output(tmp_path / "out", photos, change=lambda row: row.update(re_caption=f"new {row['index']}"))
    run_export(other, "txt", None, beside=True)
    assert sorted(texts(photos).values()) == sorted(f"new {i}" for i in range(6))


def test_what_was_cut_off_leaves_no_texts_and_is_done_again(
    made: OutputFolder, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write = below(photos), Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if b"sub" in content:
            raise OSError(28, "No space left on device", str(path))
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            run_export(made, "txt", None, beside=True)
    assert below(photos) == before
    run_export(made, "txt", None, beside=True)
    assert texts(photos) == EXPECTED


def test_a_text_that_is_shorter_than_it_was_written_is_named(
    made: OutputFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: (write(path, content[:-1]), len(content))[1])
    with pytest.raises(RecapError, match="is not as it was written"):
        run_export(made, "txt", tmp_path / "to")
    assert texts(tmp_path / "to") == {}


def test_nothing_is_written_through_a_link(made: OutputFolder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecapError, match="symbolic link"):
        run_export(made, "txt", tmp_path / "to")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("inputs", ["tar", "both"])
def test_beside_is_for_folders_alone(tmp_path: Path, photos: Path, inputs: str) -> None:
    tar = write_tar(tmp_path / "in/a.tar", webdataset_members(2))
    output = make_output(tmp_path / "out", tar, *([photos] if inputs == "both" else []))
    with pytest.raises(ConfigError, match="--beside: the inputs are not images in one folder"):
        run_export(output, "txt", None, beside=True)
