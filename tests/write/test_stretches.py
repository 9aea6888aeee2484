from support.guard import in_processes

from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.stretches import remove_stretches, stretch_name, stretches

DIGEST = "0123456789abcdef" * 4


def test_names_are_unique_and_sort_by_time(tmp_path):
    names = [stretch_name(0, 9, DIGEST) for _ in range(200)]
    assert len(set(names)) == 200
    for name in reversed(names):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "other.parquet").write_bytes(b"")
    assert [stretch.path.name for stretch in stretches(tmp_path)] == names


def _leave(folder):
    (folder / stretch_name(0, 9, DIGEST)).write_bytes(b"")


def test_those_of_this_process_and_of_dead_ones_are_removed_and_those_of_live_ones_stay(tmp_path):
    output = OutputFolder(tmp_path)
    folder = output.partial("a/b")
    folder.mkdir(parents=True)
    in_processes(lambda: _leave(folder))
    _leave(folder)
    elsewhere = folder / f"000000000-000000009.17.other-host~12.{DIGEST[:32]}.parquet"
    elsewhere.write_bytes(b"")
    assert len(stretches(folder)) == 3
    remove_stretches(output, "a/b")
    assert [stretch.path for stretch in stretches(folder)] == [elsewhere]
    elsewhere.unlink()
    remove_stretches(output, "a/b")
    assert [path.name for path in tmp_path.iterdir()] == []


def test_only_those_made_before(tmp_path):
    output = OutputFolder(tmp_path)
    folder = output.partial("a")
    folder.mkdir(parents=True)
    _leave(folder)
    made_ns = stretches(folder)[0].made_ns
    remove_stretches(output, "a", before_ns=made_ns)
    assert len(stretches(folder)) == 1
    remove_stretches(output, "a", before_ns=made_ns + 1)
    assert [path.name for path in tmp_path.iterdir()] == []
