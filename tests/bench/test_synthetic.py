import hashlib
import io
import json
import tarfile

import numpy as np
from PIL import Image

from recap_fast.bench.synthetic import first_lengths, jpeg, photograph, write_tars


def test_photographs_differ_and_are_reproducible():
    assert photograph(40, 30, 1).size == (40, 30)
    assert jpeg(40, 30, 1) == jpeg(40, 30, 1)
    assert jpeg(40, 30, 1) != jpeg(40, 30, 2)


def test_photographs_are_smooth_and_use_the_whole_range():
    pixels = np.asarray(photograph(256, 192, 0), np.int16)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.abs(np.diff(pixels, axis=1)).mean() < 20  # of white noise: 85


def test_tars_hold_what_img2dataset_writes(tmp_path):
    paths = write_tars(tmp_path, 5, [(40, 30), (30, 40)], per_shard=2)
    assert [p.name for p in paths] == ["00000.tar", "00001.tar", "00002.tar"]
    with tarfile.open(paths[1]) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}
    assert list(members) == [f"{i:09d}.{suffix}" for i in (2, 3) for suffix in ("jpg", "json", "txt")]
    record = json.loads(members["000000003.json"])
    image = members["000000003.jpg"]
    assert record["sha256"] == hashlib.sha256(image).hexdigest()
    assert (record["width"], record["height"]) == Image.open(io.BytesIO(image)).size == (30, 40)
    assert record["caption"].encode() == members["000000003.txt"]


def test_first_captions_are_no_longer_than_the_longest():
    short, long = (first_lengths([tokens], 448, 8) for tokens in (20, 65))
    assert (len(short), max(short)) == (8 * 21, 20)  # more slots are never taken
    assert (len(long), long[0], long[-1]) == (448, 56, 65)
