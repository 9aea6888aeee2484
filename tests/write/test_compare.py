import contextlib
import errno
import json
import os
import re
from dataclasses import replace as changed

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import folder_runs
from support.examples import share
from support.folder_runs import image, sha256
from support.ledgers import to_compare
from support.shard_files import write_table, write_tar
from support.verdicts import faults_of

from recap_fast.api import verify
from recap_fast.errors import RecapError
from recap_fast.records import Identity
from recap_fast.shards.tar.reader import TarReader
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.verify import verify as check

NUM = 5
KINDS = pytest.mark.parametrize("kind", ["tar", "parquet", "folder"])
Samples = list[tuple[str, bytes]]
"""Name without suffix and image, in order."""


def write(base, kind, samples: Samples, given_sha256: bool = False, seconds: int = 1000) -> str:
    """An input of these samples; with `given_sha256` each says in its json that it is the image it first was."""
    fields = {name: {"sha256": sha256(name.encode())} if given_sha256 else {"n": 1} for name, _ in samples}
    if kind == "tar":
        members = [
            member
            for name, content in samples
            for member in ((f"{name}.jpg", content), (f"{name}.json", json.dumps(fields[name]).encode()))
        ]
        path = write_tar(base / "in.tar", members)
    elif kind == "parquet":
        structs = [{"bytes": content, "path": f"{name}.jpg"} for name, content in samples]
        columns = {"image": structs}
        if given_sha256:
            columns["sha256"] = [fields[name]["sha256"] for name, _ in samples]
        path = write_table(base / "in.parquet", columns)
    else:
        path = base / "in"
        for file in path.glob("*"):
            file.unlink()
        for name, content in samples:
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{name}.jpg").write_bytes(content)
            (path / f"{name}.json").write_text(json.dumps(fields[name]))
            os.utime(path / f"{name}.jpg", (seconds, seconds))
    os.utime(path, (seconds, seconds))
    return str(path)


def samples(num=NUM) -> Samples:
    return [(f"s{number}", image(number)) for number in range(num)]


def replaced(s: Samples, i: int, j: int) -> Samples:
    return [*s[:i], (s[i][0], image(100 + j)), *s[i + 1 :]]


def swapped(s: Samples, i: int, j: int) -> Samples:
    contents = {i: s[j][1], j: s[i][1]}
    return [(name, contents.get(place, content)) for place, (name, content) in enumerate(s)]


def renamed(s: Samples, i: int, j: int) -> Samples:
    return [*s[:i], (f"{s[i][0]}-{j}", s[i][1]), *s[i + 1 :]]


def removed(s: Samples, i: int, _: int) -> Samples:
    return [*s[:i], *s[i + 1 :]]


def added(s: Samples, i: int, j: int) -> Samples:
    return [*s[:i], (f"a{j}", image(200 + j)), *s[i:]]


def shifted(s: Samples, i: int, j: int) -> Samples:
    """Each name has the next one's image."""
    return [(name, s[(place + 1) % len(s)][1]) for place, (name, _) in enumerate(s)]


def emptied(s: Samples, i: int, j: int) -> Samples:
    return [*s[:i], (s[i][0], b""), *s[i + 1 :]]


def doubled(s: Samples, i: int, j: int) -> Samples:
    return [(name, s[i][1] if place == j else content) for place, (name, content) in enumerate(s)]


CHANGES = (replaced, swapped, renamed, removed, added, shifted, emptied, doubled)


@KINDS
@share(0.5)
@given(
    st.sampled_from(CHANGES),
    st.integers(0, NUM - 1),
    st.integers(0, NUM - 1),
    st.booleans(),
    st.booleans(),
)
def test_that_every_change_is_a_fault_that_names_what_changed(
    tmp_path_factory, kind, change, i, j, given_sha256, keep_time
):
    base = tmp_path_factory.mktemp("compare")
    before = samples()
    path = write(base, kind, before, given_sha256)
    folder_runs.run(base / "out", path)
    assert not faults_of(base / "out", path)
    after = change(before, i, j)
    write(base, kind, after, given_sha256, 1000 if keep_time else 2000)
    faults = faults_of(base / "out", path)
    assert bool(faults) == (after != before)
    assert not faults_of(base / "out")
    _check_sentences(kind, path, before, after, faults)


def _check_sentences(kind: str, path: str, before: Samples, after: Samples, faults: list[tuple[str, str]]) -> None:
    """Each names the input and some of the samples that differ, and no other."""
    if kind == "folder":
        differing = {name for name, _ in {*before} ^ {*after}}
    else:  # a sample is what stands at its place
        pairs = zip(
            [*before, *[None] * (len(after) - len(before))], [*after, *[None] * (len(before) - len(after))], strict=True
        )
        differing = {each[0] for pair in pairs if pair[0] != pair[1] for each in pair if each}
    for _, sentence in faults:
        assert path in sentence
        names = set(re.findall(r"\b([as]\d+(?:-\d+)?)(?:\.jpg)?\b", sentence.replace(path, "")))
        assert names
        assert names <= differing


@KINDS
def test_that_times_and_side_information_alone_are_no_fault(tmp_path, kind):
    path = write(tmp_path, kind, samples())
    folder_runs.run(tmp_path / "out", path)
    write(tmp_path, kind, samples(), seconds=3000)
    assert not faults_of(tmp_path / "out", path)


@KINDS
@pytest.mark.parametrize("change", CHANGES)
def test_that_the_remedy_is_one(tmp_path, kind, change):
    """What the sentences say to do ends in a proof."""
    path = write(tmp_path, kind, samples())
    output = tmp_path / "out"
    folder_runs.run(output, path)
    write(tmp_path, kind, change(samples(), 1, 3), seconds=2000)
    for kind_of_fault, _ in faults_of(output, path):
        assert kind_of_fault in ("changed input", "gone image", "new input")
    folder_runs.run(output, path, redo_changed=True, prune=True)
    assert not faults_of(output, path)


@KINDS
def test_that_the_remedy_is_one_where_times_tell_nothing(tmp_path, kind):
    path = write(tmp_path, kind, samples())
    output = tmp_path / "out"
    folder_runs.run(output, path)
    write(tmp_path, kind, swapped(samples(), 1, 3))
    assert folder_runs.run(output, path, redo_changed=True, prune=True) == []
    (fault,) = verify(output, path).faults
    assert fault.kind == "wrong rows"
    for named in re.findall(r"(?:data|manifests)/\S+\.(?:parquet|json)", fault.sentence):
        (output / named).unlink()
    assert len(folder_runs.run(output, path)) == NUM
    assert not faults_of(output, path)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_which_digests_rows_have(tmp_path, kind):
    path = write(tmp_path, kind, samples(), given_sha256=True)
    folder_runs.run(tmp_path / "out", path)
    rows = folder_runs.read_rows(tmp_path / "out")
    assert [row["sha256"] for row in rows] == [sha256(name.encode()) for name, _ in samples()]
    assert [row["image_sha256"] for row in rows] == [sha256(content) for _, content in samples()]


def test_that_a_row_says_which_struct_it_is_of(tmp_path):
    path = write(tmp_path, "parquet", samples())
    folder_runs.run(tmp_path / "out", path)
    assert [row["file_name"] for row in folder_runs.read_rows(tmp_path / "out")] == [f"s{n}.jpg" for n in range(NUM)]


def test_that_a_new_image_is_named(tmp_path):
    path = write(tmp_path, "folder", samples())
    folder_runs.run(tmp_path / "out", path)
    for number in range(9):
        (tmp_path / "in" / f"n{number}.jpg").write_bytes(image(300 + number))
    ((kind, sentence),) = faults_of(tmp_path / "out", path)
    assert kind == "new input"
    assert f"has no rows yet: n0.jpg, n1.jpg, n2.jpg and 6 more of {path}" in sentence


def test_that_part_of_the_inputs_is_said_to_be_compared(tmp_path):
    paths = [write(tmp_path, kind, samples()) for kind in ("tar", "parquet", "folder")]
    folder_runs.run(tmp_path / "out", *paths)
    for some in (paths, paths[:1], paths[2:]):
        verdict = verify(tmp_path / "out", some)
        assert (verdict.num_shards, verdict.num_compared, verdict.faults) == (3, len(some), [])


@KINDS
def test_that_an_input_which_cannot_be_read_is_named(tmp_path, kind):
    path = write(tmp_path, kind, samples())
    folder_runs.run(tmp_path / "out", path)
    if kind == "folder":
        (tmp_path / "in" / "s1.jpg").unlink()
        os.mkfifo(tmp_path / "in" / "s1.jpg")  # it is there, and not to be read
    else:
        with open(path, "r+b") as file:  # noqa: PTH123 - to write in its middle
            file.truncate(700)
    faults = faults_of(tmp_path / "out", path)
    assert faults
    assert all(path in sentence for _, sentence in faults)


def test_that_an_input_which_breaks_while_it_is_compared_proves_nothing(tmp_path):
    path = write(tmp_path, "tar", samples())
    folder_runs.run(tmp_path / "out", path)

    class Breaking:
        identity, problem = Identity(0, "v"), None

        def samples(self, _):
            raise OSError(errno.EIO, "Input/output error")

    inputs = changed(to_compare(path), open_shard=lambda _: contextlib.nullcontext(Breaking()))
    found = check(OutputFolder.at(tmp_path / "out"), inputs).faults
    assert [(fault.kind, "Input/output error" in fault.finding) for fault in found] == [("lost input", True)]


@pytest.mark.parametrize("column", ["index", "sha256", "file_name"])
def test_that_an_output_of_other_columns_is_no_crash(tmp_path, column):
    path = write(tmp_path, "folder", samples())
    folder_runs.run(tmp_path / "out", path)
    (data,) = (tmp_path / "out" / "data").iterdir()
    pq.write_table(pq.ParquetFile(data).read().drop_columns([column]), data)
    assert faults_of(tmp_path / "out", path)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RecapError("it hangs"), ConnectionError("reset")])
def test_that_nothing_is_proven_of_an_input_that_breaks_off(tmp_path, error, monkeypatch):
    """Whatever reading it raises, and wherever."""
    shards, output = write(tmp_path, "tar", samples()), tmp_path / "output"
    folder_runs.run(output, shards)

    class Breaking(TarReader):
        def samples(self, done):
            yield from list(super().samples(done))[:3]
            raise error

    monkeypatch.setattr("recap_fast.shards.reader.TarReader", Breaking)
    (fault,) = verify(output, [shards]).faults
    assert fault.kind == "lost input"
    assert re.search(r"cannot be compared with its input: .*; mend it, then verify again", fault.sentence)
