import tarfile

import pytest
from support import tars
from support.shard_files import webdataset_members
from support.tars import entry

from recap_fast.errors import ShardError
from recap_fast.records import Selection, Shard
from recap_fast.shards.reader import open_shard
from recap_fast.shards.tar.layout import TarLayout

FORMS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
LONG = f"{'d/' * 60}{'n' * 90}"


@pytest.fixture
def layout_of(tmp_path):
    opened = []

    def lay_out(*entries, form=tarfile.GNU_FORMAT, selection=None):
        path = tars.write(tmp_path / "x.tar", *entries, form=form)
        opened.append(path.open("rb"))
        return TarLayout(opened[-1], selection or Selection()), path

    yield lay_out
    for file in opened:
        file.close()


@pytest.mark.parametrize("form", FORMS)
def test_members_lie_where_pythons_tarfile_finds_them(layout_of, form):
    names = ["a.jpg", "d/.hidden", "./a.json", f"{LONG}.jpg", f"{LONG}.txt", "LICENSE", "/b.jpg", "../c.jpg"]
    entries = [entry(name, name.encode()) for name in names]
    layout, path = layout_of(*entries, entry("d", type=tarfile.DIRTYPE), form=form)
    with tarfile.open(path) as tar:
        expected = [
            (info.name.encode(), info.offset, -(-(info.offset_data + info.size) // 512) * 512, info.offset_data)
            for info in tar
            if info.isreg() and info.name not in ("d/.hidden", "LICENSE")
        ]
    found = [
        (layout.path(n), layout.start(n), layout.end(n), layout.start(n) + len(layout.headers(n)))
        for n in range(len(layout.members.samples))
    ]
    assert found == expected
    assert layout.num_members == len(names)
    assert [layout.read(n).decode() for n in range(len(layout.members.samples))] == [n.decode() for n, *_ in expected]
    assert layout.beside(1, b"txt") == b"./a.txt"


def test_a_global_header_is_of_no_member(layout_of):
    info, content = entry("a.jpg", b"x")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tarfile.TarInfo, "tobuf", lambda self, *_: plain(self, tarfile.PAX_FORMAT))
        plain = lambda self, form: tarfile.TarInfo.create_pax_global_header({"comment": "hi"}) + create(self)  # noqa: E731 - a method is replaced
        create = lambda self: self.create_ustar_header(self.get_info(), "utf-8", "surrogateescape")  # noqa: E731 - a method is replaced
        layout, path = layout_of((info, content))
    assert path.read_bytes()[156:157] == b"g"
    assert (layout.start(0), len(layout.headers(0))) == (1024, 512)


@pytest.mark.parametrize("selection", [Selection(), Selection(images="all"), Selection(image_key="right.jpg")])
def test_rows_are_those_of_the_reader(layout_of, selection):
    entries = [entry(name, content) for name, content in webdataset_members(3)]
    entries += [
        entry(name, b"x") for name in ("s.left.jpg", "s.right.jpg", "s.left.txt", "t.json", "lone.txt", "22.05.jpg")
    ]
    layout, path = layout_of(*entries, selection=selection)
    with open_shard(Shard("x", str(path), "tar"), selection) as reader:
        samples = list(reader.samples([]))
    rows = [layout.parts(row) for row in range(len(layout.rows.samples))]
    assert [layout.key(int(sample)) for sample in layout.rows.samples] == [sample.key for sample in samples]
    images = [None if parts.image is None else layout.path(members[parts.image]).decode() for members, parts in rows]
    assert images == [sample.file_name for sample in samples]


def test_links_name_what_may_not_change(layout_of):
    link = entry("d/c.jpg", type=tarfile.SYMTYPE, linkname="../a.jpg")
    layout, _ = layout_of(
        entry("a.jpg", b"x"), entry("b.jpg", b"y"), link, entry("e.jpg", type=tarfile.SYMTYPE, linkname="/x")
    )
    layout.check_changeable(1)
    with pytest.raises(ShardError, match=r"has a link to 'a\.jpg', which would change"):
        layout.check_changeable(0)
    assert layout.read(2) == b"x"
    with pytest.raises(
        ShardError, match=r"has 'e\.jpg', which is a symbolic link out of the tar.*: it cannot be changed"
    ):
        layout.read(3)


@pytest.mark.parametrize("size", [100, 700, 2000])
def test_a_tar_that_is_cut_is_refused(layout_of, tmp_path, size):
    _, path = layout_of(entry("a.jpg", b"x" * 900), entry("b.jpg", b"x" * 900))
    path.write_bytes(path.read_bytes()[:size])
    with path.open("rb") as file, pytest.raises(ShardError, match=r"is not a tar|is cut off at byte"):
        TarLayout(file, Selection())
