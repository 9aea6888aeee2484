"""COCO's number and address of an image, from all the places where data sets have them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from support.exports import below, make_output, picture, run_export
from support.shard_files import write_tar

from recap_fast.errors import RecapError
from recap_fast.export.coco import COLUMNS, SCHEMA, coco_row
from recap_fast.write.output_folder import OutputFolder

HOST, NAME = "http://images.cocodataset.org", "COCO_val2014_000000391895"


def row(metadata: Any = None, **columns: Any) -> dict[str, Any]:
    text = None if metadata is None else json.dumps(metadata)
    return {**dict.fromkeys(COLUMNS), "key": "0001", "org_caption": "a man", "metadata": text, **columns}


def test_the_columns_are_those_of_recap_coco() -> None:
    assert SCHEMA.names == ["image_id", "coco_url", "caption", "recaption", "image"]
    made = coco_row(row(file_name=f"val2014/{NAME}.jpg", url="http://x/y.jpg"), "A man on a motorcycle.")
    assert made == {
        "image_id": 391895,
        "coco_url": "http://x/y.jpg",
        "caption": "a man",
        "recaption": "A man on a motorcycle.",
    }


@pytest.mark.parametrize(
    "given",
    [
        row({"image_id": 391895}),
        row({"image_id": "391895"}),
        row({"image_id": 391895.0}),
        row({"cocoid": 391895}),
        row({"image_id": None, "coco_id": 391895}),
        row({"image_id": 391895}, file_name="000000000001.jpg"),
        row(file_name=f"a/{NAME}.jpg"),
        row(file_name="coco/val2017/000000391895.jpg"),
        row(key="val2017/000000391895"),
        row(key=f"train/{NAME}"),
        row(url=f"http://images.cocodataset.org/val2014/{NAME}.jpg"),
        row([1, 2], key=NAME),
        row({"image_id": "x", "other": 1}, key=NAME),
        row({"image_id": True}, key=NAME),
        row({"image_id": 1e400}, key=NAME),
        row({"image_id": 2**63}, key=NAME),
    ],
)
def test_the_number_is_found(given: dict[str, Any]) -> None:
    assert coco_row(given, None)["image_id"] == 391895


def test_the_address_is_that_of_the_metadata_or_cocos_own() -> None:
    assert coco_row(row({"coco_url": "http://a/b"}, key=NAME, url="http://c/d"), None)["coco_url"] == "http://a/b"
    assert coco_row(row(key=NAME), None)["coco_url"] == f"{HOST}/val2014/{NAME}.jpg"
    assert coco_row(row(key="val2017/000000391895"), None)["coco_url"] == f"{HOST}/val2017/000000391895.jpg"
    assert coco_row(row({"image_id": 1}), None)["coco_url"] is None


@pytest.mark.parametrize("given", [row(), row({"image_id": 1.5}), row({"image_id": -1}), row(url="http://x/1.jpg")])
def test_an_image_without_a_number_is_named(given: dict[str, Any]) -> None:
    with pytest.raises(RecapError, match=r"^0001 has no image_id"):
        coco_row(given, None)


@pytest.mark.parametrize("name", ["x/000000391895.jpg", "000000391895", f"{NAME}x.jpg", "val2017/391895.jpg"])
def test_other_names_of_digits_are_no_cocos(name: str) -> None:
    with pytest.raises(RecapError, match=rf"^{name} has no image_id"):
        coco_row(row(file_name=name), None)


def write_coco(folder: Path, ids: Sequence[int]) -> Path:
    members = [(f"COCO_val2014_{number:012d}.png", picture(number)) for number in ids]
    texts = [(f"COCO_val2014_{number:012d}.txt", f"alt {number}".encode()) for number in ids]
    return write_tar(folder / f"{ids[0]:05d}.tar", [each for pair in zip(members, texts, strict=True) for each in pair])


@pytest.fixture
def made(tmp_path: Path) -> OutputFolder:
    write_coco(tmp_path / "in", [7, 391895])
    write_coco(tmp_path / "in", [11, 9, 10])
    return make_output(tmp_path / "out", tmp_path / "in")


def test_one_file_has_all_shards_and_load_dataset_reads_it(made: OutputFolder, tmp_path: Path) -> None:
    result = run_export(made, "coco", tmp_path / "to")
    assert list(below(tmp_path / "to")) == ["data/train-00000-of-00001.parquet"]
    loaded = datasets.load_dataset(str(tmp_path / "to"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features == datasets.Features(
        {
            "image_id": datasets.Value("int64"),
            "coco_url": datasets.Value("string"),
            "caption": datasets.Value("string"),
            "recaption": datasets.Value("string"),
            "image": datasets.Image(),
        }
    )
    assert loaded["image_id"][:] == [7, 391895, 11, 9, 10]
    assert loaded[1]["coco_url"] == f"{HOST}/val2014/{NAME}.jpg"
    assert (loaded[4]["caption"], loaded[4]["recaption"]) == ("alt 10", "caption 2 of 00011")
    assert loaded[4]["image"].tobytes() == Image.open(io.BytesIO(picture(10))).tobytes()
    assert (result.shards, result.counts["samples"]) == (2, 5)
    assert run_export(made, "coco", tmp_path / "to").already == 2


def test_an_export_of_other_images_is_refused_and_leaves_no_file(made: OutputFolder, tmp_path: Path) -> None:
    write_tar(tmp_path / "other/a.tar", [("000000391895.png", picture(1))])
    output = make_output(tmp_path / "else", tmp_path / "other")
    with pytest.raises(RecapError, match=r"000000391895\.png has no image_id"):
        run_export(output, "coco", tmp_path / "to")
    assert below(tmp_path / "to") == {}
