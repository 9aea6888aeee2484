"""`recap-fast report`: where the page goes, what is said, and what is refused."""

import shutil

import pytest
from click.testing import CliRunner
from support.captioned import row, write

from recap_fast.cli.main import cli
from recap_fast.errors import ConfigError


@pytest.fixture
def output(tmp_path):
    return write(tmp_path, {"00000": [row(n) for n in range(3)]}, images=True)


def called(*words):
    return CliRunner().invoke(cli, ["report", *map(str, words)])


def test_the_page_goes_into_the_output_and_its_path_is_printed(output, tmp_path):
    done = called(tmp_path / "out")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'out' / 'report.html'}\n"
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")
    assert called(tmp_path / "out").exit_code == 0  # in place of the first one


def test_a_file_of_another_name(output, tmp_path):
    done = called(tmp_path / "out", "--html", tmp_path / "page.html", "--num", 1, "--seed", 3)
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'page.html'}\n")
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("folder", ["data", "manifests", "partial/00000"])
def test_the_folders_of_a_run_are_refused(output, tmp_path, folder):
    done = called(tmp_path / "out", "--html", tmp_path / "out" / folder / "report.html")
    assert isinstance(done.exception, ConfigError)
    assert "Give a path outside of" in str(done.exception)


def test_a_file_that_cannot_be_written_is_refused_at_once(output, tmp_path):
    done = called(tmp_path / "out", "--html", tmp_path / "nowhere" / "page.html")
    assert "--html" in str(done.exception)
    assert "cannot be written" in str(done.exception)


@pytest.mark.parametrize("name", ["run.json", "README.md", "IMG_1.jpg"])
def test_a_file_that_is_no_report_is_never_replaced(output, tmp_path, name):
    path = tmp_path / "out" / name
    path.touch()
    before = path.read_bytes() or b"precious"
    path.write_bytes(before)
    (tmp_path / "link.html").symlink_to(path)
    for html in (path, tmp_path / "link.html"):
        done = called(tmp_path / "out", "--html", html)
        assert str(done.exception) == f"--html {html} is there and is no report: it is not replaced. Give another path."
    assert path.read_bytes() == before


def test_inputs_that_are_gone_are_a_note(output, tmp_path):
    shutil.move(tmp_path / "in", tmp_path / "moved")
    done = called(tmp_path / "out")
    assert done.exit_code == 0
    assert done.stderr.startswith("note: some images are not on the page: those of shard 00000 (")
    assert called(tmp_path / "out", "--shards", tmp_path / "moved" / "*.tar").stderr == ""
    assert called(tmp_path / "out", "--relocate", f"{tmp_path}/in={tmp_path}/moved").stderr == ""


def test_a_wrong_place_for_the_inputs_is_refused(output, tmp_path):
    assert "no input of this output folder lay in" in str(called(tmp_path / "out", "--relocate", "/a=/b").exception)


def test_a_baseline_of_other_images_is_a_note(output, tmp_path):
    write(tmp_path / "other", {"00000": [row(99)]})
    done = called(tmp_path / "out", "--baseline", tmp_path / "other" / "out")
    assert done.exit_code == 0
    assert done.stderr == "note: no image is in both outputs. Images are compared by uid, then by SHA-256.\n"


def test_a_folder_that_is_no_output_is_refused(tmp_path):
    done = called(tmp_path)
    assert isinstance(done.exception, ConfigError)
    assert "it is not the --output of a run" in str(done.exception)


def test_an_output_in_a_bucket_has_its_page_here(s3_bucket, output, tmp_path, monkeypatch):
    from recap_fast.store.opening import open_store

    store = open_store(f"{s3_bucket}/out")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            store.put(str(path.relative_to(tmp_path / "out")), path.read_bytes())
    monkeypatch.chdir(tmp_path)
    done = called(f"{s3_bucket}/out")
    assert (done.exit_code, done.stdout) == (0, "report.html\n"), done.exception
    assert "A cat sits here." in (tmp_path / "report.html").read_text()
