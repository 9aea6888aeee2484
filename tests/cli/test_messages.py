import errno
import logging
import os
from pathlib import Path

import pytest

from recap_fast.cli.messages import StderrHandler, check_writable, writing
from recap_fast.errors import ConfigError, OutputGoneError, RecapError


def test_a_file_that_can_be_written_is_neither_made_nor_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "there.json"
    there.write_text("x")
    for path in (there, there.relative_to(tmp_path), tmp_path / "new.json"):
        check_writable("--json", path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"there.json": "x"}
    check_writable("--json", Path("/dev/null"))


@pytest.mark.parametrize("place", ["nowhere/x.json", "file/x.json", "folder", "x" * 256])
def test_a_file_that_cannot_be_written_is_named_with_its_option(tmp_path, place):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"--json .* cannot be written \(.*\): give another path"):
        check_writable("--json", tmp_path / place)


@pytest.mark.parametrize("name", [None, "out/weights", "out", ".out.7.building/weights", "."])
def test_a_full_disk_is_named_with_the_option(tmp_path, name):
    names = () if name is None else (str(tmp_path / name),)
    sentence = r"--output .*/out cannot be written \(.*No space left on device.*make room there"
    with pytest.raises(RecapError, match=sentence), writing("--output", tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *names)


@pytest.mark.parametrize("folder", ["in", "out2"])
def test_an_error_about_another_file_stays_as_it_is(tmp_path, folder):
    file = str(tmp_path / folder / "config.json")
    with pytest.raises(OSError, match=r"Input/output error: '.*/config\.json'"), writing("--output", tmp_path / "out"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), file)


def test_an_error_of_a_network_is_not_about_the_output(tmp_path):
    with pytest.raises(ConnectionResetError), writing("--output", tmp_path / "out"):
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def test_an_error_that_names_the_output_in_its_text_is_about_it(tmp_path):
    with pytest.raises(RecapError, match=r"^--output .*: mend that"), writing("--output", tmp_path / "out"):
        raise OSError(f"cannot write {tmp_path}/out/x: the device is gone")


def test_an_error_that_says_what_to_do_says_it_once(tmp_path):
    said = f"--output {tmp_path}/out is gone: put it back"
    with pytest.raises(OutputGoneError) as caught, writing("--output", tmp_path / "out"):
        raise OutputGoneError(said)
    assert str(caught.value) == said


def test_a_log_record_begins_with_its_level(capsys):
    logger = logging.Logger("recap_fast.test")  # noqa: LOG001 - one that nobody else gets
    logger.addHandler(StderrHandler())
    logger.warning("%s stops at token %d", "CK", 2)
    assert capsys.readouterr() == ("", "warning: CK stops at token 2\n")
