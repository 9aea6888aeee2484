import os
import string
import subprocess
import sys
import unicodedata
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import folder_runs
from support.shard_files import webdataset_members, write_tar
from support.verdicts import faults_of

from recap_fast.write.card import write_card
from recap_fast.write.names import safe_name, some, unused
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import read_run

HARD = (
    *(
        "_x",
        " _y",
        "._ z",
        "__init__",
        "...",
        "$HOME",
        "a=1",
        "b%20c",
        "[x]",
        "{a,b}",
        "a::b",
        "zip::x",
        "~t",
        "-",
        "--",
    ),
    *("x" * 251, "é" * 125, "\N{GRINNING FACE}", "new\nline", "a?b", "a*b", "a#b", "a'b", 'q"q', "a;b", "back\\slash"),
    *("train", "test", "validation", "metadata", "data", "x.parquet", "y.JSON", "A", "a", "a ", " b", "c:d", "a|b"),
    *("a-2", os.fsdecode(b"\xff\xfe"), "e\u0301", "\u202ertl", "a.b", "1"),
)
parts = st.text(st.characters(exclude_characters="/\0"), min_size=1) | st.sampled_from(HARD)
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)


@given(paths)
@example("a/" + "\ud800" * 60)
def test_that_any_reader_takes_a_safe_name(path):
    for part in safe_name(path).split("/"):
        assert part
        assert part == part.strip()
        assert part[0] not in "._~"
        assert not set(part) & set("*?[]{}=$%:#<>|\"'\\;&!\n\t\0")
        assert not part.lower().endswith((".parquet", ".json"))
        assert all(unicodedata.category(letter)[0] in "LMN" or letter in string.printable for letter in part)
        assert len(part.encode()) <= 200


@given(paths)
def test_that_a_safe_name_is_safe_already(path):
    assert safe_name(safe_name(path)) == safe_name(path)


@pytest.mark.parametrize("name", ["00000", "a b", "part-0001", "a.b,c+d@e(f)", "été", "写真", "x~", "a_b", "0/00012"])
def test_that_plain_names_stay(name):
    assert safe_name(name) == name


@given(st.lists(parts, unique=True))
def test_that_unused_names_are_unique(names):
    used = set()
    for name in names:
        used.add(unused(safe_name(name), used))
    assert len(used) == len(names)


def test_that_long_names_with_one_beginning_stay_different():
    assert safe_name("x" * 240) != safe_name("x" * 241)


def test_what_is_shown_of_names():
    assert some(["a.jpg"]) == "a.jpg"
    assert some(["é.jpg", "b\nc.jpg", "d\udcff.jpg", *"xyz"]) == "é.jpg, b\\nc.jpg, d\\udcff.jpg and 3 more"
    some(["d\udcff"]).encode()


@pytest.fixture(scope="module")
def hard_output(tmp_path_factory) -> tuple[Path, Path, int]:
    """An output of tars and loose images whose names, and whose folders', are hard to read; and how many there are."""
    base = tmp_path_factory.mktemp("hard")
    inputs, output = base / "in", base / "out"
    for number, name in enumerate(HARD):
        if len(os.fsencode(name)) <= 251 and not name.startswith("."):  # hidden files are no inputs
            write_tar(inputs / f"{name}.tar", webdataset_members(1, number))
        folder = inputs / (name if not name.startswith(".") else f"x{name}")
        write_tar(folder / "0.tar", webdataset_members(1, 100 + number))
        (base / "loose" / folder.name).mkdir(parents=True)
        (base / "loose" / folder.name / "1.jpg").write_bytes(f"image {number}".encode())
    loose = sorted((base / "loose").iterdir())
    folder_runs.run(output, inputs, *loose)
    assert not faults_of(output, inputs, *loose)
    write_card(OutputFolder.at(output), dict.fromkeys(("engine", "precision", "prompt", "template", "decoder"), "x"))
    return base, output, sum(path.is_file() for path in [*inputs.rglob("*"), *(base / "loose").rglob("*")])


class TestHardOutput:
    def test_that_pyarrow_reads_all(self, hard_output):
        _, output, num = hard_output
        assert ds.dataset(output / "data").to_table().num_rows == num
        assert ds.dataset(output / "data", partitioning="hive").to_table().num_rows == num

    def test_that_duckdb_reads_all(self, hard_output):
        _, output, num = hard_output
        query = f"select count(*), count(distinct shard) from '{output}/data/**/*.parquet'"
        assert duckdb.sql(query).fetchall() == [(num, num)]

    def test_that_datasets_reads_all(self, hard_output, tmp_path):
        _, output, num = hard_output
        code = "import datasets, sys; print(datasets.load_dataset(sys.argv[1], split='train').num_rows)"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-c", code, output]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == str(num), done.stderr

    def test_that_the_run_file_has_what_they_were_called(self, hard_output):
        base, output, num = hard_output
        run = read_run(OutputFolder.at(output))
        assert len(run.shards) == num
        units = set(run.units)
        assert {url for name, url in run.shards.items() if name not in units} == {
            str(path) for path in (base / "in").rglob("*") if path.is_file()
        }
        assert {run.shards[name] for name in units} == {str(path) for path in (base / "loose").iterdir()}
