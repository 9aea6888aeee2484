import io
import tarfile

from support.shard_files import read_samples

from recap_fast.records import Shard

FILE, HARD, SYMBOLIC, FIFO = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE


def read(tmp_path, *members, form=tarfile.PAX_FORMAT):
    """Of (name, type, content or target)."""
    with tarfile.open(tmp_path / "s.tar", "w", format=form) as tar:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "" if kind == FILE else text, len(text) if kind == FILE else 0
            tar.addfile(info, io.BytesIO(text.encode()) if kind == FILE else None)
    samples, reader = read_samples(Shard("s", str(tmp_path / "s.tar"), "tar"))
    return {s.file_name: s.error or s.image.decode() for s in samples}, reader


def test_links_to_any_member_have_its_content(tmp_path):
    found, reader = read(
        tmp_path,
        (".dvc/files/ab/cdef01", FILE, "hidden"),
        ("store/ffee02", FILE, "bare"),
        ("./c.jpg", FILE, "dotted"),
        ("1.jpg", HARD, ".dvc/files/ab/cdef01"),
        ("2.jpg", HARD, "store/ffee02"),
        ("3.jpg", HARD, "./c.jpg"),
        ("d/4.jpg", SYMBOLIC, "../store/ffee02"),
        ("d/5.jpg", SYMBOLIC, "4.jpg"),
        ("6.jpg", HARD, "d/5.jpg"),
        ("7.jpg", HARD, "/c.jpg"),
        ("unused", FILE, "x"),
    )
    assert found == {
        "c.jpg": "dotted", "1.jpg": "hidden", "2.jpg": "bare", "3.jpg": "dotted", "d/4.jpg": "bare", "d/5.jpg": "bare",
        "6.jpg": "bare", "7.jpg": "dotted",
    }  # fmt: skip
    assert reader.left_out == {"files that belong to no image (without extension)": 1}


def test_of_several_members_of_a_name_the_one_that_extracting_gives(tmp_path):
    found, _ = read(
        tmp_path,
        ("s.jpg", SYMBOLIC, "a.jpg"),
        ("early.jpg", HARD, "a.jpg"),
        ("a.jpg", FILE, "one"),
        ("h.jpg", HARD, "a.jpg"),
        ("a.jpg", FILE, "two"),
        ("i.jpg", HARD, "a.jpg"),
    )
    assert {name: found[name] for name in ("s.jpg", "early.jpg", "h.jpg", "i.jpg")} == {
        "s.jpg": "two", "early.jpg": "one", "h.jpg": "one", "i.jpg": "two",
    }  # fmt: skip


def test_the_reason_is_true_where_there_is_no_content(tmp_path):
    found, _ = read(
        tmp_path,
        ("a.jpg", HARD, "gone.jpg"),
        ("b.jpg", HARD, "b.jpg"),
        ("c.jpg", SYMBOLIC, "c.jpg"),
        ("d.jpg", SYMBOLIC, "e.jpg"),
        ("e.jpg", HARD, "d.jpg"),
        ("f/f.jpg", SYMBOLIC, "../../out.jpg"),
        ("g.jpg", SYMBOLIC, "/data/g.jpg"),
        ("h.jpg", HARD, "pipe"),
        ("pipe", FIFO, ""),
        ("i.jpg", FIFO, ""),
        ("k.jpg", tarfile.CHRTYPE, ""),
        ("folder/", tarfile.DIRTYPE, ""),
        ("j.jpg", SYMBOLIC, "folder"),
    )
    assert found == {
        "a.jpg": "the .jpg is a link to gone.jpg, which is not a file in the tar",
        "b.jpg": "the .jpg is a link in a circle of links",
        "c.jpg": "the .jpg is a link in a circle of links",
        "d.jpg": "the .jpg is a link in a circle of links",
        "e.jpg": "the .jpg is a link in a circle of links",
        "f/f.jpg": "the .jpg is a symbolic link out of the tar, to ../../out.jpg",
        "g.jpg": "the .jpg is a symbolic link out of the tar, to /data/g.jpg",
        "h.jpg": "the .jpg is a link to a pipe",
        "i.jpg": "the .jpg is a pipe",
        "k.jpg": "the .jpg is a device",
        "j.jpg": "the .jpg is a symbolic link to folder, which is not a file in the tar",
    }


def test_texts_may_be_links(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, content in (("a.jpg", b"1"), ("a.txt", b"a cat")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (("b.jpg", "a.jpg"), ("b.txt", "a.txt"), ("c.jpg", "a.jpg"), ("c.txt", "gone.txt")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = SYMBOLIC, target
            tar.addfile(info)
    samples, _ = read_samples(Shard("s", str(tmp_path / "s.tar"), "tar"))
    assert [(s.org_caption, s.warning) for s in samples] == [
        ("a cat", None),
        ("a cat", None),
        (None, "the .txt is a symbolic link to gone.txt, which is not a file in the tar"),
    ]
