import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st
from support.examples import share
from support.shard_files import read_samples, webdataset_members

from recap_fast.errors import ShardError
from recap_fast.records import Selection, Shard


def make(form):
    """Six samples, a link, a sparse-looking name and an attribute, with the place where each sample ends."""
    buffer = io.BytesIO()
    members = webdataset_members(6)
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(("n" * 120 + "/" if form == tarfile.PAX_FORMAT else "") + name)
            info.size, info.pax_headers = len(content), {"SCHILY.xattr.user.a": "é" * 9}
            tar.addfile(info, io.BytesIO(content))
            if name.endswith("3.txt"):
                info.name, info.type, info.linkname, info.size = "zlink.jpg", tarfile.LNKTYPE, info.name, 0
                tar.addfile(info)
    content = buffer.getvalue()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        infos = [info for info in tar if info.isreg()]
    return content, [infos[3 * i + 2].offset_data + infos[3 * i + 2].size for i in range(6)]


TARS = [make(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
EDITS = st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=12)), min_size=1, max_size=4)
SIZES = st.sampled_from([b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7, b"7" * 11])


@share(3)
@given(st.sampled_from(TARS), EDITS, st.sampled_from(["first", "all"]))
def test_damage_costs_no_whole_sample_before_it(tmp_path_factory, made, edits, images):
    content, ends = made
    changed = bytearray(content)
    for position, data in edits:
        position %= len(content)
        changed[position : position + len(data)] = data
    read_changed(tmp_path_factory.mktemp("tar"), bytes(changed[: len(content)]), content, ends, images)


@share(2)
@given(st.sampled_from(TARS), st.integers(0, 1 << 16), SIZES | st.binary(min_size=12, max_size=12), st.booleans())
def test_a_wrong_size_with_a_right_checksum(tmp_path_factory, made, number, size, is_link):
    content, ends = made
    changed = bytearray(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        infos = tar.getmembers()
    start = infos[number % len(infos)].offset_data - 512
    changed[start + 124 : start + 136] = size
    if is_link:
        changed[start + 156 : start + 157] = b"S"
    block = changed[start : start + 512]
    changed[start + 148 : start + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    read_changed(tmp_path_factory.mktemp("tar"), bytes(changed), content, ends, "first")


def read_changed(folder, changed, content, ends, images):
    (folder / "s.tar").write_bytes(changed)
    first = next((i for i, (new, old) in enumerate(zip(changed, content, strict=True)) if new != old), len(content))
    try:
        samples, _ = read_samples(Shard("s", str(folder / "s.tar"), "tar"), selection=Selection(images=images))
    except ShardError:
        assert first < 512
        return
    whole = [number for number, end in enumerate(ends) if end <= first]
    found = {sample.key.rpartition("/")[2]: sample for sample in reversed(samples)}
    for number in whole:
        sample = found[f"{number:09d}"]
        assert (sample.status, sample.image) == ("ok", f"image {number}".encode() * 20)
        assert (sample.org_caption, sample.uid) == (f"alt {number}", f"u{number}")
