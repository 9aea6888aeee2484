import io
import tarfile

import pytest

from recap_fast.export import tar_headers

LIKE = tarfile.TarInfo("x.jpg")
LIKE.mode, LIKE.uid, LIKE.gid, LIKE.mtime, LIKE.uname, LIKE.gname = 0o640, 12, 34, 1_600_000_000, "me", "us"


def read(content):
    with tarfile.open(fileobj=io.BytesIO(content + bytes(1024))) as tar:
        (info,) = tar
        return info, tar.extractfile(info).read()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.json", "d/" + "n" * 98, "n" * 101, "d/" * 200 + "\u00e9.json"])
@pytest.mark.parametrize("size", [0, 1, 512, 5000])
def test_a_new_member_has_the_owner_and_the_time_of_another(form, name, size):
    info, content = read(tar_headers.member(name.encode(), b"x" * size, LIKE.tobuf(form)))
    assert (info.name, info.type, content) == (name, tarfile.REGTYPE, b"x" * size)
    assert (info.mode, info.uid, info.gid, info.mtime) == (0o640, 12, 34, 1_600_000_000)
    assert (info.uname, info.gname) == ("me", "us")


@pytest.mark.parametrize("name", ["a.json", "d/" * 200 + "\u00e9.json"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_another_content_behind_the_same_headers(form, name):
    info = LIKE.replace(name=name, deep=True)
    info.size = 3
    headers = info.tobuf(form)
    changed, content = read(tar_headers.with_content(headers, 3, b"longer"))
    assert (changed.name, changed.mtime, content) == (name, LIKE.mtime, b"longer")
    assert tar_headers.with_content(headers, 3, b"abc")[: len(headers)] == headers


def test_headers_that_say_more_than_a_size_are_not_kept():
    link = LIKE.replace(deep=True)
    link.type, link.linkname = tarfile.LNKTYPE, "y.json"
    assert tar_headers.with_content(link.tobuf(), 3, b"abc") is None
    info = LIKE.replace(deep=True)
    info.size = 3
    info.pax_headers = {"size": "3"}
    assert tar_headers.with_content(info.tobuf(tarfile.PAX_FORMAT), 3, b"abc") is None
