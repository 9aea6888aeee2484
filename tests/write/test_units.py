import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.atomic import sha256_of
from recap_fast.errors import ConfigError
from recap_fast.records import ImageFile
from recap_fast.write import units
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.units import Unit, make_units, read_units, write_units

names = st.lists(st.text(min_size=1), unique=True, max_size=8)


@given(names, st.sampled_from(["", "a", "../b"]), st.sets(st.integers(0, 7)))
def test_that_a_unit_reads_back_as_it_was_written(tmp_path_factory, files, base, pruned):
    output = OutputFolder.at(tmp_path_factory.mktemp("out"))
    keys = {0: "key"} if files else {}
    unit = Unit(base, tuple(files), keys, frozenset(place for place in pruned if place < len(files)))
    assert read_units(output, write_units(output, {"x/00000": unit})) == {"x/00000": unit}


def test_the_file_of_a_unit(tmp_path):
    unit = Unit("x", ("a.jpg", "a.png"), {1: "x/a.png"}, frozenset([0]))
    digest = write_units(OutputFolder.at(tmp_path), {"x/00000": unit})["x/00000"]
    path = tmp_path / "units" / "x" / f"00000.{digest}.json"
    assert sha256_of(path).startswith(digest)
    assert json.loads(path.read_text()) == {
        "format": 1,
        "base": "x",
        "files": ["a.jpg", "a.png"],
        "keys": {"1": "x/a.png"},
        "pruned": [0],
    }


def test_that_a_name_that_is_not_utf8_reads_back(tmp_path):
    unit = Unit("", ("a\udcff.jpg",), {})
    output = OutputFolder.at(tmp_path)
    assert read_units(output, write_units(output, {"00000": unit})) == {"00000": unit}


@pytest.mark.parametrize(
    "content", ["", "[]", "1", '{"format": 2}', '{"format": 1, "base": "", "files": 1, "keys": {}, "pruned": []}']
)
def test_that_a_damaged_one_is_refused_by_name(tmp_path, content):
    path = tmp_path / "units" / "a.0123.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"units/a\.0123\.json cannot be read .*put it back from a copy"):
        read_units(OutputFolder.at(tmp_path), {"a": "0123"})


def test_that_units_hold_a_thousand():
    made = make_units("", [f"{number:05d}.jpg" for number in range(2001)], set())
    assert [len(unit.files) for unit in made] == [1000, 1000, 1]
    assert units.UNIT_IMAGES == 1000


@pytest.mark.parametrize(
    ("base", "files", "keys"),
    [
        ("", ["cat.jpeg", "cat.jpg"], ["cat", "cat.jpg"]),
        ("", ["cat.a.jpg", "cat.jpg"], ["cat.a", "cat"]),
        ("p", ["s/cat.jpg", "cat.jpg"], ["p/s/cat", "p/cat"]),
        ("", ["cat.jpg", "cat.jpg.png", "cat.png"], ["cat", "cat.jpg", "cat.png"]),
        ("", ["cat.jpg.png", "cat.gif", "cat.jpg"], ["cat.jpg", "cat", "cat.jpg-2"]),
        ("", ["a.b/cat.jpg", "a.b/cat"], ["a.b/cat", "a.b/cat-2"]),
    ],
)
def test_which_keys_images_have(base, files, keys):
    (unit,) = make_units(base, files, set())
    assert [unit.key(place) for place in unit.places] == keys


def test_what_a_shard_reads_of_a_unit():
    unit = Unit("p", ("a.jpg", "b.jpg", "c.jpg"), {2: "other"}).without([1])
    assert list(unit.places) == [0, 2]
    assert unit.image_files({0: "1:2", 2: None}) == (
        ImageFile("a.jpg", "p/a.jpg", "p/a", "1:2"),
        None,
        ImageFile("c.jpg", "p/c.jpg", "other", None),
    )
