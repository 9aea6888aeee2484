from pathlib import Path

from recap_fast.write.output_folder import OutputFolder

OUTPUT = OutputFolder(Path("/out"))


def test_where_things_lie():
    assert OUTPUT.run_file == Path("/out/run.json")
    assert OUTPUT.card == Path("/out/README.md")
    assert OUTPUT.data("a/0.1") == Path("/out/data/a/0.1.parquet")
    assert OUTPUT.record("a/0.1") == Path("/out/manifests/a/0.1.json")
    assert OUTPUT.partial("a/0.1") == Path("/out/partial/a/0.1")
    assert [folder.name for folder in OUTPUT.folders] == ["manifests", "data", "partial"]


def test_what_is_there(tmp_path):
    output = OutputFolder(tmp_path)
    assert (output.data_files(), output.record_files()) == ([], [])
    for path in (output.data("b"), output.data("a/0"), output.record("b"), output.partial("b") / "x.parquet"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert output.data_files() == [output.data("a/0"), output.data("b")]
    assert output.record_files() == [output.record("b")]
