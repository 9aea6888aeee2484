import errno
import functools
import json
import os

import pytest
from support.damage import DAMAGES
from support.guard import in_processes
from support.ledgers import wanted

from recap_fast.errors import ConfigError, RecapError
from recap_fast.inputs import Inputs, Source
from recap_fast.records import Identity
from recap_fast.write import opening, run_file
from recap_fast.write.card import write_card
from recap_fast.write.opening import open_output
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import RunFile, find_versions, read_run, read_run_file, write_run_file
from recap_fast.write.verify import verify

MARKS = {"engine": "tiny", "stop_ids": (1, 2), "max_new_tokens": 128}


def shards(*names, root="/in"):
    return Inputs(root, tuple(Source(f"{root}/{name}.tar", "tar") for name in names))


def merge(output, inputs, marks=MARKS, *, overwrite=None):
    given = {"inputs": inputs, "marks": marks, "version_of": lambda _: Identity(1, "2"), "overwrite": overwrite}
    return open_output(OutputFolder.at(output), wanted(**given))


def read(output):
    run = read_run_file(OutputFolder.at(output))
    assert run is not None
    return run


def test_later_runs_add_shards_and_keep_the_root(tmp_path):
    merge(tmp_path, shards("a"))
    added = merge(tmp_path, shards("0", root="/in/deep/er"))
    assert [(shard.name, shard.url) for shard in added] == [("deep/er/0", "/in/deep/er/0.tar")]
    merge(tmp_path, shards("x", root="/elsewhere"))
    run = read(tmp_path)
    assert run.root == "/in"
    assert run.shards == {"a": "/in/a.tar", "deep/er/0": "/in/deep/er/0.tar", "elsewhere/x": "/elsewhere/x.tar"}


def test_nothing_new_writes_nothing(tmp_path):
    merge(tmp_path, shards("a"))
    before = (tmp_path / "run.json").stat()
    merge(tmp_path, shards("a"))
    assert (tmp_path / "run.json").stat().st_ino == before.st_ino


def test_every_differing_field_is_named(tmp_path):
    merge(tmp_path, shards("a"))
    with pytest.raises(ConfigError) as error:
        merge(tmp_path, shards("a"), {"engine": "big", "stop_ids": [1, 2], "prompt": "Why?"})
    text = str(error.value)
    assert "  engine: 'tiny' there, 'big' now" in text
    assert "  max_new_tokens: 128 there, None now" in text
    assert "  prompt: None there, 'Why?' now" in text
    assert "stop_ids" not in text
    assert "--overwrite" in text


def test_two_inputs_that_would_have_one_name_have_two(tmp_path):
    merge(tmp_path, shards("a"))
    other = Inputs("/in", (Source("/in/a.parquet", "parquet"), Source("/in/a.tar", "tar")))
    for _ in range(2):
        assert {(shard.name, shard.kind) for shard in merge(tmp_path, other)} == {("a-2", "parquet"), ("a", "tar")}
    assert read(tmp_path).shards == {"a": "/in/a.tar", "a-2": "/in/a.parquet"}


def test_a_strangers_folder_is_refused_and_never_cleared(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite in (None, "this command"):
        with pytest.raises(ConfigError, match=r"is not empty and no run made it \(it has thesis\.tex\)"):
            merge(tmp_path, shards("a"), overwrite=overwrite)
    assert (tmp_path / "thesis.tex").exists()


def test_overwrite_removes_what_runs_wrote_and_nothing_else(tmp_path):
    merge(tmp_path, shards("a", "b"))
    for name in ("data/a.parquet", "manifests/a.json", "partial/b/x.parquet", "units/u.json", "mine.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    write_card(OutputFolder.at(tmp_path), {})
    merge(tmp_path, shards("b"), {"engine": "other"}, overwrite="this command")
    assert read(tmp_path).shards == {"b": "/in/b.tar"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "local.json", "mine.txt", "run.json"]
    (tmp_path / "README.md").write_text("# Mine")
    merge(tmp_path, shards("c"), {"engine": "third"}, overwrite="another command")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "local.json", "mine.txt", "run.json"]


def test_overwrite_empties_a_folder_on_another_disk_and_leaves_its_link(tmp_path):
    output, other_disk = tmp_path / "output", tmp_path / "disk"
    merge(output, shards("a"))
    (other_disk / "photos").mkdir(parents=True)
    for name in ("a.parquet", "photos/00000.parquet"):
        (other_disk / name).write_text("x")
    (output / "data").symlink_to(other_disk)
    merge(output, shards("b"), {"engine": "other"}, overwrite="this command")
    assert read(output).shards == {"b": "/in/b.tar"}
    assert (output / "data").is_symlink()
    assert list(other_disk.iterdir()) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_file_that_cannot_be_read_is_refused(tmp_path, damage):
    merge(tmp_path, shards("a"))
    DAMAGES[damage](tmp_path / "run.json")
    way_out = "go on with the version of recap-fast that wrote it" if "format" in damage else "put back .* as it was"
    with pytest.raises(ConfigError, match=rf"run\.json cannot be read .*: {way_out}, or use another --output"):
        merge(tmp_path, shards("a"))


@pytest.mark.parametrize("damage", ["cut", "another format"])
def test_overwrite_takes_a_folder_whose_files_cannot_be_read(tmp_path, damage):
    merge(tmp_path, shards("a"))
    for name in ("run.json", "local.json"):
        DAMAGES[damage](tmp_path / name)
    assert [shard.name for shard in merge(tmp_path, shards("b"), overwrite="this command")] == ["b"]
    assert read(tmp_path).shards == {"b": "/in/b.tar"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("fingerprint", []), ("fingerprint", None), ("shards", ["a"]), ("shards", {"a": {"url": "x"}})],
)
def test_a_run_file_with_fields_of_other_types_is_refused(tmp_path, field, value):
    merge(tmp_path, shards("a"))
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ConfigError, match=rf"cannot be read \(it\.{field}.* is .*, not "):
        merge(tmp_path, shards("a"))


def test_a_full_disk_is_named_with_what_to_do(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    sentence = (
        r"local\.json cannot be written \(.*No space left on device.*\): make room there, or give another --output"
    )
    with pytest.raises(RecapError, match=sentence):
        merge(tmp_path / "out", shards("a"))


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(ConfigError, match="cannot be made"):
        merge(tmp_path / "out", shards("a"))


def test_processes_that_start_together_lose_no_shards(tmp_path):
    names = [f"{i:02d}" for i in range(12)]
    in_processes(*(functools.partial(merge, tmp_path, shards(name)) for name in names))
    assert sorted(read(tmp_path).shards) == names


def runs_of_two_roots():
    return (RunFile({}, root, {"x": f"{root}/x.tar", "y": f"/elsewhere{root}/y.tar"}, root) for root in ("/a", "/b"))


def test_processes_with_other_roots_that_open_at_once_do_not_mix(tmp_path, monkeypatch):
    """The other one writes both files, or only the first, between this one's two writes."""
    output, (a, b) = OutputFolder.at(tmp_path), runs_of_two_roots()
    assert write_run_file(output, RunFile({}, "/b", {}), find_versions(output))
    write, begun = run_file._write, find_versions(output)

    def between(output, name, fields, version):
        if name == "run.json":
            monkeypatch.setattr(run_file, "_write", write)
            assert run_file._add_local(output, run_file._Local(b.root, b.command, {"y": b.shards["y"]}), begun) is False
            assert run_file._add_local(output, run_file._Local(b.root, b.command), find_versions(output))
        return write(output, name, fields, version)

    monkeypatch.setattr(run_file, "_write", between)
    assert write_run_file(output, a, begun)
    assert read(tmp_path) == a
    assert write_run_file(output, b, begun) is False
    assert read(tmp_path) == a
    assert write_run_file(output, b, find_versions(output))
    assert read(tmp_path) == b


def test_a_process_that_is_killed_between_the_two_files_changes_nothing(tmp_path, monkeypatch):
    output, (a, b) = OutputFolder.at(tmp_path), runs_of_two_roots()
    assert write_run_file(output, a, find_versions(output))
    write = run_file._write
    for root in ("/b", "/c", "/d"):
        monkeypatch.setattr(
            run_file, "_write", lambda output, name, *more: name == "local.json" and write(output, name, *more)
        )
        assert write_run_file(output, RunFile({}, root, b.shards), find_versions(output)) is False
        assert read(tmp_path) == a
    monkeypatch.setattr(run_file, "_write", write)
    assert write_run_file(output, b, find_versions(output))
    assert read(tmp_path) == b
    assert write_run_file(output, a, find_versions(output))
    assert len(json.loads((tmp_path / "local.json").read_text())["others"]) == 1, "what nobody can name any more goes"


def test_a_run_file_of_a_version_that_named_no_part_is_read(tmp_path):
    output, (a, b) = OutputFolder.at(tmp_path), runs_of_two_roots()
    assert write_run_file(output, a, find_versions(output))
    content = json.loads((tmp_path / "run.json").read_text())
    del content["local"]
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert read(tmp_path) == a
    assert run_file._add_local(output, run_file._Local("/b"), find_versions(output))
    assert read(tmp_path) == a
    assert write_run_file(output, b, find_versions(output))
    assert read(tmp_path) == b


def test_a_folder_that_another_process_begins_just_now_is_not_foreign(tmp_path, monkeypatch):
    """Between the look for its run file and the look for other files."""
    refuse = opening._refuse_foreign_files

    def begin(output):
        monkeypatch.setattr(opening, "_refuse_foreign_files", refuse)
        merge(tmp_path, shards("b"))
        refuse(output)

    monkeypatch.setattr(opening, "_refuse_foreign_files", begin)
    assert [shard.name for shard in merge(tmp_path, shards("a"))] == ["a"]
    assert list(read(tmp_path).shards) == ["b", "a"]


def test_rows_with_the_columns_of_another_version_are_refused_in_a_sentence(tmp_path):
    merge(tmp_path, shards("a"), {**MARKS, "schema": 1})
    with pytest.raises(ConfigError, match=r"\(schema 1, this one has 4\): use the version that wrote it, or caption "):
        read_run(OutputFolder.at(tmp_path))


@pytest.mark.parametrize("schema", [2, 3])
def test_rows_of_earlier_versions_are_read_and_not_gone_on_with(tmp_path, schema):
    merge(tmp_path, shards("a"), {**MARKS, "schema": schema})
    assert read_run(OutputFolder.at(tmp_path)).fingerprint["schema"] == schema
    with pytest.raises(ConfigError, match=rf"\(schema {schema}, this one has 4\)"):
        verify(OutputFolder.at(tmp_path))
    with pytest.raises(ConfigError, match=f"schema: {schema} there, 4 now"):
        merge(tmp_path, shards("a"), {**MARKS, "schema": 4})
