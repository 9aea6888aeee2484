import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.shard_files import read_samples, tar_bytes

from recap_fast.records import Shard
from recap_fast.shards.tar.index import TarIndexer

END = bytes(1024)


def block(name="a.jpg", kind=b"0", size=0, **fields):
    """A header as GNU tar writes it; `fields` are bytes by position: at_386=b"..."."""
    content = bytearray(512)
    content[: len(name)] = name.encode()
    content[124:136], content[156:157], content[257:265] = b"%011o\0" % size, kind, b"ustar  \0"
    for field, value in fields.items():
        content[int(field[3:]) : int(field[3:]) + len(value)] = value
    content[148:156] = b"%06o\0 " % (sum(content) - sum(content[148:156]) + 256)
    return bytes(content)


def padded(content):
    return content + bytes(-len(content) % 512)


def record(key, value):
    """A record of a pax header."""
    size = len(key) + len(value) + 3
    length = next(n for n in range(size, size + 9) if n == size + len(str(n)))
    return b"%d %s=%s\n" % (length, key, value)


def pax(*records):
    content = b"".join(record(*pair) for pair in records)
    return block("PaxHeaders/a", b"x", len(content)) + padded(content)


def index(content):
    indexer = TarIndexer(io.BytesIO(content), len(content))
    return list(indexer), indexer


def as_tarfile(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]


def read(tmp_path, content):
    (tmp_path / "s.tar").write_bytes(content)
    samples, reader = read_samples(Shard("s", str(tmp_path / "s.tar"), "tar"))
    return [(s.file_name, s.image or s.error) for s in samples], reader


LARGE = (b"LIBARCHIVE.xattr.com.apple.ResourceFork", b"A" * (3 << 20))
JPG = block("x.jpg", size=3) + padded(b"abc")


@pytest.mark.parametrize(
    "records",
    [
        [(b"path", b"long.jpg"), LARGE],
        [LARGE, (b"path", b"long.jpg")],
        [LARGE, LARGE, (b"comment", b"x" * 90), (b"path", b"long.jpg"), LARGE],
    ],
)
def test_a_large_pax_header_decides_about_nothing_but_what_it_says(records):
    content = pax(*records) + JPG + block("b.jpg", size=3) + padded(b"xyz") + END
    members, indexer = index(content)
    assert [(m.name.decode(), content[m.offset : m.offset + m.size]) for m in members] == as_tarfile(content)
    assert (members[0].name, indexer.problem) == (b"long.jpg", None)


@pytest.mark.parametrize(
    "damaged", [b"nonsense", b"99999999999 path=x\n", b"12 path=x.jpX", b"5 a=\n", b"\0" * 50, b"11 size=-5\n"]
)
def test_a_damaged_pax_header_decides_about_no_member(damaged):
    records = record(b"path", b"name.jpg") + damaged
    members, indexer = index(block("PaxHeaders/a", b"x", len(records)) + padded(records) + JPG + JPG + END)
    assert [m.name for m in members] == [b"name.jpg", b"x.jpg"]
    assert indexer.problem is None


@pytest.mark.parametrize("size", [2**63, 2**64, 10**20 - 1])
def test_a_size_that_no_file_has(tmp_path, size):
    rows, reader = read(tmp_path, JPG + pax((b"size", b"%d" % size)) + block("y.jpg") + b"rest")
    assert rows[0] == ("x.jpg", b"abc")
    assert rows[1][1].startswith("the .jpg is cut off at byte")
    assert "cut off" in reader.problem


def test_a_name_of_megabytes_is_cut():
    name = b"n" * (5 << 20)
    members, _ = index(block("././@LongLink", b"L", len(name)) + padded(name) + JPG + JPG + END)
    assert [len(m.name) for m in members] == [1 << 20, 5]


@pytest.mark.parametrize("kind", [b"A", b"D", b"E", b"I", b"N", b"V"])
def test_what_is_no_file_is_passed_over(kind):
    members, indexer = index(block("x.jpg", kind, 600) + bytes(1024) + JPG + END)
    assert ([m.name for m in members], members[0].size, indexer.problem) == ([b"x.jpg"], 3, None)


@pytest.mark.parametrize("kind", [b"\0", b"0", b"7", b"Q", b"z"])
def test_all_other_types_are_files(kind):
    content = block("x.jpg", kind, 3) + padded(b"abc") + JPG + END
    members, _ = index(content)
    assert [(m.name.decode(), content[m.offset : m.offset + m.size]) for m in members] == as_tarfile(content)


def test_the_end_of_a_file_that_began_in_another_tar(tmp_path):
    rows, _ = read(tmp_path, block("x.jpg", b"M", 3) + padded(b"abc") + block("y.jpg", size=3) + padded(b"abc") + END)
    assert rows == [
        ("x.jpg", "the .jpg is the rest of a file whose start is in another tar"),
        ("y.jpg", b"abc"),
    ]


PIECES = st.lists(st.tuples(st.integers(0, 700), st.binary(min_size=1, max_size=700)), max_size=40)


def old_sparse(pieces, size):
    numbers = [b"%011o\0%011o\0" % (position, len(data)) for position, data in pieces]
    extensions = [numbers[first : first + 21] for first in range(4, len(numbers), 21)]
    content = b"".join(data for _, data in pieces)
    header = block(
        "x.jpg", b"S", len(content), at_386=b"".join(numbers[:4]), at_482=b"%c" % (len(numbers) > 4),
        at_483=b"%011o\0" % size,
    )  # fmt: skip
    more = [b"".join(e).ljust(504, b"\0") + b"%c" % (e is not extensions[-1]) for e in extensions]
    return header + b"".join(map(padded, more)) + padded(content)


def pax_0_0(pieces, size):
    content = b"".join(data for _, data in pieces)
    numbers = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.numblocks", b"%d" % len(pieces))]
    for position, data in pieces:
        numbers += [(b"GNU.sparse.offset", b"%d" % position), (b"GNU.sparse.numbytes", b"%d" % len(data))]
    return pax(*numbers) + block("x.jpg", size=len(content)) + padded(content)


def pax_0_1(pieces, size):
    content = b"".join(data for _, data in pieces)
    numbers = b",".join(b"%d,%d" % (position, len(data)) for position, data in pieces)
    headers = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.name", b"x.jpg"), (b"GNU.sparse.map", numbers)]
    return pax(*headers) + block("GNUSparseFile.1/x.jpg", size=len(content)) + padded(content)


def pax_1_0(pieces, size):
    lines = [len(pieces), *(number for position, data in pieces for number in (position, len(data)))]
    content = padded(b"".join(b"%d\n" % line for line in lines)) + b"".join(data for _, data in pieces)
    headers = {"major": b"1", "minor": b"0", "name": b"x.jpg", "realsize": b"%d" % size}
    header = pax(*((f"GNU.sparse.{name}".encode(), value) for name, value in headers.items()))
    return header + block("GNUSparseFile.1/x.jpg", size=len(content)) + padded(content)


@pytest.mark.parametrize("write", [old_sparse, pax_0_0, pax_0_1, pax_1_0])
@given(gaps=PIECES, end=st.integers(0, 900))
def test_sparse_files_are_read_with_their_holes(tmp_path_factory, write, gaps, end):
    pieces, position = [], 0
    for gap, data in gaps:
        pieces.append((position + gap, data))
        position += gap + len(data)
    if not pieces:
        pieces = [(0, b"")] if write is pax_0_1 else pieces
    content = write(pieces, position + end) + JPG.replace(b"abc", b"xyz") + END
    whole = bytearray(position + end)
    for start, data in pieces:
        whole[start : start + len(data)] = data
    rows, reader = read(tmp_path_factory.mktemp("tar"), content)
    assert rows[0] == ("x.jpg", bytes(whole) or "The image has no bytes.")
    assert (rows[1:], reader.problem) == ([("x.jpg", b"xyz")], None)


@pytest.mark.parametrize(
    "content",
    [
        old_sparse([(0, b"abc")], 2),
        old_sparse([(0, b"abc")], 3).replace(b"%011o" % 3, b"zzzzzzzzzzz"),
        pax_0_1([(5, b"abc")], 7),
        pax_0_1([(0, b"abc"), (2, b"abc")], 7),
        pax_1_0([(4, b"abc"), (0, b"abc")], 7),
        pax_0_1([(0, b"abc")], 3).replace(b"map=0,3", b"map=0,9"),
        pax_1_0([(0, b"abc")], 3).replace(b"1\n0\n3\n", b"9\n0\n3\n"),
        pax_1_0([(0, b"abc")], 3).replace(b"1\n0\n3\n", b"x\n0\n3\n"),
    ],
)
def test_a_wrong_map_costs_its_own_file(content, tmp_path):
    content = bytearray(content)
    if content[156:157] == b"S":
        content[124:136] = b"%011o\0" % 3
        content[148:156] = b"%06o\0 " % (sum(content[:512]) - sum(content[148:156]) + 256)
    rows, reader = read(tmp_path, bytes(content) + block("y.jpg", size=3) + padded(b"abc") + END)
    assert rows[0][1].startswith("the .jpg is a sparse file w")
    assert (rows[1:], reader.problem) == ([("y.jpg", b"abc")], None)


def test_a_sparse_file_of_any_size_takes_no_memory(tmp_path):
    rows, _ = read(tmp_path, pax_1_0([(0, b"abc")], 1 << 62) + END)
    assert rows == [("x.jpg", f"the .jpg has {1 << 62:,} bytes")]


def test_zeros_behind_the_end_are_not_read_for_ever(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("recap_fast.shards.tar.index.MAX_ZEROS", 1 << 20)
    start = tar_bytes([("a.jpg", b"1")])
    behind = block("b.jpg", size=1) + padded(b"2") + END
    for zeros, names in ((0, 2), (4096, 2), (3 << 20, 1)):
        rows, reader = read(tmp_path, start + bytes(zeros) + behind)
        assert (len(rows), reader.problem) == (names, None)
    assert "bytes of zeros follow its end mark; the" in caplog.text


def test_holes_behind_the_end_are_skipped(tmp_path, caplog):
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes([("a.jpg", b"1")]))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    samples, reader = read_samples(Shard("s", str(path), "tar"))
    assert ([s.image for s in samples], reader.problem) == ([b"1"], None)
    assert "bytes of zeros follow its end mark" in caplog.text
