import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.shard_files import read_samples, write_tar

from recap_fast.records import Selection, Shard


def read(tmp_path, members, **selection):
    path = write_tar(tmp_path / "s.tar", members)
    return read_samples(Shard("s", str(path), "tar"), selection=Selection(**selection))


def test_files_that_belong_to_no_image_are_counted_and_have_no_rows(tmp_path):
    names = ["README.md", "LICENSE.txt", "labels.csv", "Thumbs.db", "NOTES", "x/.DS_Store", "b/LICENSE.TXT", "1.npy"]
    stats = json.dumps({"count": 3, "successes": 3, "status_dict": {"success": 3}}).encode()
    members = [(name, b"x") for name in names] + [("stats.json", stats)]
    samples, reader = read(tmp_path, [*members[:4], ("0.jpg", b"0"), ("0.txt", b"t"), *members[4:], ("1.npy", b"")])
    assert [(s.key, s.status, s.org_caption) for s in samples] == [("0", "ok", "t")]
    kinds = {"md": 1, "txt": 2, "csv": 1, "db": 1, "json": 1, "npy": 2}
    assert reader.left_out == {
        **{f"files that belong to no image (.{kind})": count for kind, count in kinds.items()},
        "files that belong to no image (without extension)": 1,
        "files that belong to no image (hidden)": 1,
    }


@pytest.mark.parametrize("content", [b'{"url": "http://x"}', b' { "CAPTION" : null}', b'{"n": 1, "key": "a"}'])
def test_a_sample_without_its_image_is_a_row(tmp_path, content):
    (sample, _), reader = read(tmp_path, [("a.json", content), ("b.jpg", b"1")])
    assert (sample.key, sample.status, sample.error) == ("a", "missing_image", "no image among its files: json")
    assert (sample.metadata, reader.left_out) == (content.decode(), {})


def test_many_kinds_are_counted_together(tmp_path):
    _, reader = read(tmp_path, [("a.jpg", b"1"), *((f"{i}.x{i}", b"") for i in range(30)), ("z.x7", b"")])
    assert reader.left_out["files that belong to no image (.x7)"] == 2
    assert reader.left_out["files that belong to no image (others)"] == 20
    assert sum(reader.left_out.values()) == 31


def test_keys_with_dots(tmp_path):
    members = []
    for key in ("22.05", "d/22.06", "22.06", "23.01"):
        members += [(f"{key}.json", json.dumps({"uid": key}).encode()), (f"{key}.jpg", key.encode())]
    members += [("22.06.txt", b"a cat"), ("24.01.JPG", b"24"), ("24.json", b"{}"), ("a.left.jpg", b"l")]
    samples, reader = read(tmp_path, members)
    assert [(s.key, s.uid, s.file_name, s.image.decode()) for s in samples] == [
        *((key, key, f"{key}.jpg", key) for key in ("22.05", "d/22.06", "22.06", "23.01")),
        ("24", None, "24.01.JPG", "24"),
        ("a", None, "a.left.jpg", "l"),
    ]
    assert [s.org_caption for s in samples] == [None, None, "a cat", None, None, None]
    assert (reader.left_out, {s.warning for s in samples}) == ({}, {None})


def test_where_an_image_is_named_keys_end_at_the_first_dot(tmp_path):
    members = [("a.left.jpg", b"l"), ("a.left.txt", b"t"), ("a.right.jpg", b"r")]
    assert [s.key for s in read(tmp_path, members)[0]] == ["a.left", "a.right"]
    (sample,), reader = read(tmp_path, members, image_key="left")
    assert (sample.key, sample.image, sample.org_caption) == ("a", b"l", "t")
    assert reader.left_out == {"further images of a sample": 1}


def test_a_repeated_key_with_dots(tmp_path):
    members = [("1.5.jpg", b"1"), ("1.5.txt", b"one"), ("1.6.jpg", b"x"), ("1.5.jpg", b"2"), ("1.5.txt", b"two")]
    samples, _ = read(tmp_path, members)
    assert [(s.key, s.image, s.org_caption) for s in samples] == [
        ("1.5", b"1", "one"), ("1.6", b"x", None), ("1.5", b"2", "two"),
    ]  # fmt: skip
    assert [s.warning is None for s in samples] == [True, True, False]


NAMES = st.sampled_from(
    [f"{key}.{extension}" for key in ("a", "b", "3.5", "3.6") for extension in ("jpg", "x.png", "txt", "json", "7.gif")]
)


@given(st.lists(NAMES, unique=True, max_size=12))
def test_every_image_has_a_row_or_is_counted(tmp_path_factory, names):
    members = [(name, name.encode()) for name in names]
    images = {name for name in names if name.endswith(("jpg", "png", "gif"))}
    path = tmp_path_factory.mktemp("tar")
    first, reader = read(path, members)
    assert sum(s.status == "ok" for s in first) + reader.left_out.get("further images of a sample", 0) == len(images)
    every, reader = read(path, members, images="all")
    assert {s.file_name for s in every if s.status == "ok"} == images
    assert len({(s.key, s.file_name) for s in every}) == len(every)
    assert "further images of a sample" not in reader.left_out
    for sample in (*first, *every):
        assert sample.image == (sample.file_name or "").encode()
