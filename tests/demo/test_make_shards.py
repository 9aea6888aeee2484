import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import make_shards
import numpy as np
import pyarrow.parquet as pq
import pytest
import scenes
from PIL import Image
from support.pictures import encode

from recap_fast.decode.decoder import make_decoder
from recap_fast.records import Preprocess

NUM_SAMPLES = 40
PREPROCESS = Preprocess(32, "pad", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_shards.make_shards(folder, num_shards=2, num_samples=NUM_SAMPLES, seed=7)
    return folder


def samples(path):
    """The shard's (name, image, alt text, json) in order: three members of one key for each."""
    with tarfile.open(path) as tar:
        content = [(m.name, tar.extractfile(m).read()) for m in tar.getmembers()]
    found = []
    for (name, image), text, record in zip(content[::3], content[1::3], content[2::3], strict=True):
        key = name.split(".")[0]
        assert (text[0], record[0]) == (f"{key}.txt", f"{key}.json")
        found.append((name, image, text[1].decode(), json.loads(record[1])))
    return found


def test_the_folder_is_laid_out_as_img2datasets(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        *("00000.parquet", "00000.tar", "00000_stats.json"),
        *("00001.parquet", "00001.tar", "00001_stats.json"),
        "truth.json",
    ]


def test_the_json_has_the_fields_of_img2dataset(folder):
    fields = "url caption key status error_message width height original_width original_height exif sha256 uid".split()  # noqa: SIM905
    for name, image, text, record in samples(folder / "00000.tar"):
        assert list(record) == fields
        assert record["key"] == name.split(".")[0]
        assert (len(record["key"]), record["key"][:5]) == (9, "00000")
        assert record["caption"] == text
        assert record["sha256"] == hashlib.sha256(image).hexdigest()
        assert len(record["uid"]) == 32


def test_the_parquet_is_metadata_with_the_failed_downloads(folder):
    table = pq.read_table(folder / "00000.parquet")
    assert "jpg" not in table.column_names
    status = Counter(table["status"].to_pylist())
    assert status["success"] == NUM_SAMPLES
    assert status["failed_to_download"] > 0
    statistics = json.loads((folder / "00000_stats.json").read_text())
    assert (statistics["count"], statistics["failed_to_download"]) == (len(table), status["failed_to_download"])
    in_tar = {record["key"] for *_, record in samples(folder / "00000.tar")}
    missing = [row["key"] for row in table.to_pylist() if row["status"] != "success"]
    assert not in_tar & set(missing)


@pytest.mark.parametrize("shard", ["00000", "00001"])
def test_every_odd_kind_is_there_once(folder, shard):
    content = samples(folder / f"{shard}.tar")
    names = Counter(name.split(".")[1] for name, *_ in content)
    assert names == {"jpg": NUM_SAMPLES - 3, "PNG": 1, "gif": 1, "png": 1}
    keys = Counter(name.split(".")[0] for name, *_ in content)
    assert sorted(keys.values(), reverse=True)[:2] == [2, 1]
    outcomes = make_decoder("pillow", PREPROCESS).decode([image for _, image, *_ in content]).outcomes
    statuses = Counter(o.status for o in outcomes)
    assert statuses == {
        "ok": NUM_SAMPLES - 4,
        "truncated": 1,
        "not_an_image": 1,
        "too_small": 1,
        "empty_image": 1,
    }


def test_alt_texts_look_like_the_webs(folder):
    texts = [text for *_, text, _ in samples(folder / "00000.tar")]
    assert sum("<|eot_id|>" in text for text in texts) == 1
    assert any(not text.isascii() for text in texts)
    assert any(not text for text in texts)
    assert np.mean([len(text.split()) for text in texts]) < 12


def test_the_truth_is_that_of_the_picture(folder, monkeypatch):
    """Draws every scene again: the picture in the tar, turned upright, is the one the caption was made for."""
    truth = json.loads((folder / "truth.json").read_text())
    drawn = []
    scene_of = scenes.random_scene
    monkeypatch.setattr(scenes, "random_scene", lambda rng: drawn.append(scene_of(rng)) or drawn[-1])
    make_shards.make_entries(0, NUM_SAMPLES, np.random.default_rng([7, 0]))
    content = samples(folder / "00000.tar")
    batch = make_decoder("pillow", PREPROCESS).decode([image for _, image, *_ in content])
    expected = make_decoder("pillow", PREPROCESS).decode([encode(scenes.draw(scene), "PNG") for scene in drawn]).pixels
    checked = [index for index in range(NUM_SAMPLES) if f"00000/{index}" in truth]
    assert len(checked) == NUM_SAMPLES - 5  # four have no picture, one no colors
    for index in checked:
        assert truth[f"00000/{index}"] == scenes.caption(drawn[index])
        assert (batch.outcomes[index].width, batch.outcomes[index].height) == (drawn[index].width, drawn[index].height)
        assert np.abs(batch.pixels[index].astype(int) - expected[index]).mean() < 3


def test_the_rotated_picture_needs_its_exif_data(folder):
    turned = [i for _, i, *_ in samples(folder / "00000.tar") if b"Exif" in i[:64]]
    assert len(turned) == 1
    assert Image.open(io.BytesIO(turned[0])).getexif()[0x0112] == 6


def test_the_same_seed_gives_the_same_bytes(folder, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    make_shards.make_shards(again, 2, NUM_SAMPLES, 7)
    make_shards.make_shards(other, 1, NUM_SAMPLES, 8)
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    assert (other / "00000.tar").read_bytes() != (folder / "00000.tar").read_bytes()


def test_the_command_says_what_it_made_and_what_it_cannot(tmp_path):
    command = [sys.executable, make_shards.__file__, "--output", str(tmp_path), "--shards", "1", "--samples"]
    made = subprocess.run([*command, str(make_shards.MIN_SAMPLES)], capture_output=True, text=True, check=True)
    assert made.stdout == f"1 shards of {make_shards.MIN_SAMPLES} images in {tmp_path}\n"
    assert Path(tmp_path / "00000.tar").is_file()
    refused = subprocess.run([*command, "3"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--samples is 3; it must be from 11 to 9000" in refused.stderr
