import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import share
from support.shard_files import tar_bytes

from recap_fast.errors import ShardError
from recap_fast.shards.tar.index import TarIndexer

NAME = st.text("abcDE.0-_/é漢", min_size=1, max_size=180).map(lambda text: f"x{text.strip('/')}y")
FORMS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def index(content):
    indexer = TarIndexer(io.BytesIO(content), len(content))
    return list(indexer), indexer


def write(entries, form):
    """A tar of (name, type, content, pax headers); links go to the first name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, kind, content, headers in entries:
            info = tarfile.TarInfo(name)
            info.type, info.pax_headers = kind, headers
            info.linkname = entries[0][0] if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE) else ""
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return buffer.getvalue()


KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE)]
)
HEADERS = st.dictionaries(st.sampled_from(["comment", "LIBARCHIVE.xattr.a", "mtime"]), st.text("1é", max_size=9))


@share(0.6)
@given(st.lists(st.tuples(NAME, KINDS, st.binary(max_size=1200), HEADERS), max_size=6), FORMS)
def test_as_pythons_tarfile(entries, form):
    try:
        content = write(entries, form)
    except ValueError:  # a name that ustar has no room for
        content = write(entries, tarfile.PAX_FORMAT)
    found, indexer = index(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(i.name, i.linkname, *((i.offset_data, i.size) if i.isreg() else (0, 0))) for i in tar]
    assert [(m.name.decode(), (m.link or b"").decode(), m.offset, m.size) for m in found] == expected
    assert indexer.problem is None


def header(**fields):
    info = tarfile.TarInfo("a.jpg")
    for name, value in fields.items():
        setattr(info, name, value)
    return info


def test_base_256_and_pax_sizes():
    large = 1 << 40
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        members, indexer = index(header(size=large).tobuf(form))
        assert [member.size for member in members] == [large]
        assert "cut off" in indexer.problem


@pytest.mark.parametrize(
    ("kind", "special"), [(tarfile.SYMTYPE, None), (tarfile.CHRTYPE, "a device"), (tarfile.LNKTYPE, None)]
)
def test_links_and_devices_have_no_content(kind, special):
    content = header(type=kind, linkname="b.jpg", size=0).tobuf() + header(size=3).tobuf() + b"abc".ljust(512, b"\0")
    members, _ = index(content + bytes(1024))
    assert (members[0].special, members[0].link) == (special, None if special else b"b.jpg")
    assert (members[1].offset, members[1].size) == (1024, 3)


A, B = tar_bytes([("a.jpg", b"1")]), tar_bytes([("b.jpg", b"2")])


@pytest.mark.parametrize(
    ("content", "names"),
    [
        pytest.param(bytes(10240), [], id="an empty archive"),
        pytest.param(A + b"garbage" * 1000, [b"a.jpg"], id="anything after the end mark"),
        pytest.param(A + B, [b"a.jpg", b"b.jpg"], id="tars one after another"),
        pytest.param(header(name="a/", type=tarfile.DIRTYPE).tobuf() + A, [b"a.jpg"], id="a folder"),
        pytest.param(tarfile.TarInfo.create_pax_global_header({"path": "wrong"}) + A, [b"a.jpg"], id="a global header"),
    ],
)
def test_what_is_no_file_is_passed_over(content, names):
    members, indexer = index(content)
    assert ([member.name for member in members], indexer.problem) == (names, None)


def test_a_damaged_header_ends_the_reading_and_is_reported():
    content = bytearray(tar_bytes([("a.jpg", b"1"), ("b.jpg", b"2"), ("c.jpg", b"3")]))
    content[1024] ^= 0xFF
    members, indexer = index(bytes(content))
    assert [member.name for member in members] == [b"a.jpg"]
    assert indexer.problem == "damaged at byte 1,024: its checksum is wrong; what follows is unread"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a tar: it has 0 bytes"),
        (b"<html>not found</html>" * 100, "is not a tar: a field that is not a number"),
        (b"\x1f\x8b" + b"x" * 600, "is compressed with gzip"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 600, "is compressed with zstd"),
    ],
)
def test_what_is_no_tar_is_refused(content, message):
    with pytest.raises(ShardError, match=message):
        index(content)


@given(st.binary(min_size=512, max_size=3000))
def test_garbage_never_crashes(content):
    try:
        members, _ = index(content)
    except ShardError:
        return
    assert members == []


@share(3)
@given(st.integers(0, 4000), st.integers(0, 255), FORMS)
def test_a_changed_byte_never_crashes(position, value, form):
    content = bytearray(tar_bytes([("a" * 60 + "/" + "b" * 60 + ".jpg", b"1" * 600), ("b.jpg", b"2")], form))
    content[position % len(content)] = value
    with contextlib.suppress(ShardError):
        for member in index(bytes(content))[0]:
            assert 0 <= member.offset <= len(content)
            assert member.size >= 0
