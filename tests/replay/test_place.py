import pytest
from support.finished_rows import finish
from support.folder_runs import SETTINGS
from support.ledgers import open_ledger
from support.shard_files import write_tar

from recap_fast.errors import ConfigError
from recap_fast.joined import JoinedOutput
from recap_fast.replay.place import Place, find_place


@pytest.fixture
def joined(tmp_path):
    """Two tars; the second has a key of the first again, and one that looks like a place."""
    for name, keys in {"a": ("one", "two", "three"), "b": ("two", "a:1", "b:7")}.items():
        write_tar(tmp_path / f"in/{name}.tar", [(f"{key}.jpg", key.encode() * 20) for key in keys])
    ledger = open_ledger(tmp_path / "out", tmp_path / "in", marks=SETTINGS)
    for shard in ledger.shards:
        finish(ledger, shard)
    return JoinedOutput.open(ledger.output)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("one", Place("a", 0)),
        ("three.jpg", Place("a", 2)),
        ("b:0", Place("b", 0)),
        ("a:1", Place("a", 1)),
        ("b:7", Place("b", 7)),
    ],
)
def test_a_row_is_found_by_its_key_its_file_or_its_place_which_comes_first(joined, name, place):
    assert find_place(joined, name) == place
    assert find_place(joined, str(place)) == place


def test_a_key_that_several_rows_have_is_answered_with_their_places(joined):
    with pytest.raises(ConfigError, match="2 rows have the key or file name 'two': give one of a:1, b:0"):
        find_place(joined, "two")


@pytest.mark.parametrize("name", ["four", "c:1", "a:", "a:-1", "a:\u0661", ""])
def test_a_name_that_no_row_has_is_answered_with_what_names_are(joined, name):
    with pytest.raises(ConfigError, match=r"has no row .*: give a key, a file name, or SHARD:INDEX, such as \w+:0"):
        find_place(joined, name)


def test_progress_is_told_of_the_shards(joined):
    told = []
    find_place(joined, "one", lambda *counts: told.append(counts))
    assert told == [(0, 2), (1, 2)]
