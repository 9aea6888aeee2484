import pytest
from support.guard import in_processes
from support.ledgers import path_of

from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.stretches import remove_stretches, stretch_name, stretches

DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def output(tmp_path):
    return OutputFolder.at(tmp_path)


@pytest.fixture
def folder(output):
    path = path_of(output, output.partial("a/b"))
    path.mkdir(parents=True)
    return path


def test_names_are_unique_and_sort_by_time(output, folder):
    names = [stretch_name(0, 9, DIGEST) for _ in range(200)]
    assert len(set(names)) == 200
    for name in reversed(names):
        (folder / name).write_bytes(b"")
    (folder / "other.parquet").write_bytes(b"")
    assert [stretch.name for stretch in stretches(output, "a/b")] == [f"partial/a/b/{name}" for name in names]


def test_those_of_a_shard_below_are_another_shards(output, folder):
    _leave(folder)
    assert len(stretches(output, "a/b")) == 1
    assert stretches(output, "a") == []


def _leave(folder):
    (folder / stretch_name(0, 9, DIGEST)).write_bytes(b"")


def test_that_only_those_of_other_living_processes_of_this_machine_stay(output, folder, tmp_path):
    in_processes(lambda: _leave(folder))
    _leave(folder)
    parts = stretch_name(0, 9, DIGEST).split(".")
    machine = parts[2].rpartition("~")[0]
    alive, elsewhere = (
        folder / f"000000000-000000009.{made_ns}.{owner}.{DIGEST[:32]}.parquet"
        for made_ns, owner in ((17, f"{machine}~1"), (18, "other-host~12"))
    )
    alive.write_bytes(b"")
    elsewhere.write_bytes(b"")
    assert len(stretches(output, "a/b")) == 4
    remove_stretches(output, "a/b")
    assert list(folder.iterdir()) == [alive]
    alive.unlink()
    folder.rmdir()
    folder.parent.rmdir()


def test_only_those_made_before(output, folder, tmp_path):
    _leave(folder)
    made_ns = stretches(output, "a/b")[0].made_ns
    remove_stretches(output, "a/b", before_ns=made_ns)
    assert len(stretches(output, "a/b")) == 1
    remove_stretches(output, "a/b", before_ns=made_ns + 1)
    assert [path.name for path in tmp_path.iterdir()] == []
