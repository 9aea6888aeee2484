import os
import shutil
import time
from pathlib import Path

import pytest

from recap_fast.atomic import owner
from recap_fast.write.decode_notes import DecodeNotes
from recap_fast.write.output_folder import OutputFolder

DEAD = f"{owner().rpartition('~')[0]}~{2**22 + 1}~00000000.json"
"""A process number that no system gives."""
ELSEWHERE = "another-machine~7~00000000.json"


@pytest.fixture
def output(tmp_path):
    return OutputFolder.at(tmp_path)


def notes(output, done=()):
    return DecodeNotes(output, lambda name: name in done).open()


def leave(output, name, content=b'[["a", 5, 1], ["b/c", 0, 2]]\n'):
    """A file of another process."""
    output.decoding.mkdir(exist_ok=True)
    path = output.decoding / name
    path.write_bytes(content)
    return path


def test_a_dead_process_says_what_it_was_decoding(output):
    leave(output, DEAD)
    found = notes(output)
    assert [found.tries("a", 5), found.tries("b/c", 0), found.tries("a", 4), found.tries("c", 0)] == [1, 2, 0, 0]


@pytest.mark.parametrize("seconds", [0, 3600])
def test_one_on_another_machine_counts_once_it_is_old(output, seconds):
    path = leave(output, ELSEWHERE)
    os.utime(path, (time.time() - seconds,) * 2)
    assert notes(output).tries("a", 5) == bool(seconds)


def test_one_that_lives_does_not_count_and_an_ended_batch_neither(output):
    alive = f"{owner().rpartition('~')[0]}~{os.getppid()}~00000000.json"
    path = leave(output, alive)
    leave(output, DEAD, b'\n"a", 5, 1]]\n')
    found = notes(output)
    assert found.tries("a", 5) == 0
    assert path.exists()


def test_a_process_of_the_same_number_that_is_another_is_dead(output):
    leave(output, f"{owner()}~00000000.json")
    assert notes(output).tries("a", 5) == 1


def test_those_that_die_meanwhile_are_found_when_it_looks_again(output):
    found = notes(output)
    leave(output, DEAD)
    assert found.tries("a", 5) == 0
    found.look_again()
    assert found.tries("a", 5) == 1


def test_one_on_another_machine_counts_at_once_where_it_is_known_to_be_dead(output):
    path = leave(output, ELSEWHERE)
    os.utime(path, (time.time() - 3600,) * 2)
    found = notes(output)
    leave(output, ELSEWHERE, b'[["a", 7, 1]]\n')
    found.look_again()
    assert found.tries("a", 7) == 0
    found.died([ELSEWHERE.rpartition("~")[0]])
    found.look_again()
    assert found.tries("a", 7) == 1


def test_looking_again_leaves_alone_what_may_be_idle_elsewhere(output):
    found = notes(output)
    path = leave(output, ELSEWHERE, b"\n")
    os.utime(path, (time.time() - 3600,) * 2)
    found.look_again()
    assert path.exists()


def test_each_try_counts_one_more(output):
    leave(output, DEAD)
    found = notes(output)
    with found.decoding([("a", 5), ("x", 1)]):
        (mine,) = set(output.decoding.iterdir()) - {output.decoding / DEAD}
        assert mine.read_bytes().partition(b"\n")[0] == b'[["a", 5, 2], ["x", 1, 1]]'
    assert mine.read_bytes().startswith(b"\n")
    found.close()
    assert not mine.exists()


def test_the_larger_number_counts(output):
    leave(output, DEAD)
    leave(output, f"{owner()}~00000000.json", b'[["a", 5, 3]]\n')
    assert notes(output).tries("a", 5) == 3


def test_notes_stay_until_their_shards_are_done(output):
    path = leave(output, DEAD)
    notes(output, {"a"}).close()
    assert path.exists()
    notes(output, {"a", "b/c"}).close()
    assert not output.decoding.exists()


@pytest.mark.parametrize(
    "content", [b"[[1]]", b"{", b"\xff\xff", b'[["a", "b", "c"]]', b"7", b"[" * 100_000, b'[["a", 1e999, 1]]', b""]
)
def test_what_is_damaged_is_a_warning(output, caplog, content):
    path = leave(output, DEAD, content)
    assert notes(output).tries("a", 5) == 0
    assert not path.exists()
    assert ("is damaged and ignored" in caplog.text) == bool(content)


def test_what_is_no_file_is_passed_over(output):
    (output.decoding / DEAD).mkdir(parents=True)
    os.mkfifo(output.decoding / f"{owner()}~00000000.json")
    assert notes(output).tries("a", 5) == 0


def test_without_a_folder_to_write_to_the_run_goes_on(output, caplog):
    output.decoding.write_bytes(b"")
    found = notes(output)
    with found.decoding([("a", 1)]):
        assert "if a decoder crashes, it will crash again" in caplog.text
    found.close()


@pytest.mark.parametrize("kind", ["gone", "file"])
def test_that_another_thing_is_in_the_place_of_the_folder_is_no_error(tmp_path, kind):
    output = OutputFolder.at(tmp_path / "output")
    Path(output.address).mkdir()
    found = notes(output)
    shutil.rmtree(Path(output.address))
    if kind == "file":
        Path(output.address).write_text("x")
    found.close()
