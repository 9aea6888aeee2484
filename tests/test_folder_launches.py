"""Whole runs over a folder of images, with a tiny engine: what they say, and what they go on with."""

import json
from pathlib import Path

import pytest
from support import launches, pictures
from support.runs import read_rows
from support.verdicts import faults_of

from recap_fast.errors import ConfigError, ExitCode
from recap_fast.launch import config as config_module
from recap_fast.launch.config import RunConfig, command_name, relocation
from recap_fast.launch.plan import plan


def write(folder: Path, *numbers: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(pictures.encode(pictures.noise(20, 16, seed=number), "PNG"))


@pytest.fixture
def photos(tmp_path):
    write(tmp_path / "photos", *range(10, 15))
    return tmp_path / "photos"


@pytest.fixture
def config(tiny_engine, photos):
    def make(**changed) -> RunConfig:
        return launches.make_config(tiny_engine, photos, **{"shards": (str(photos),), **changed})

    return make


@pytest.fixture
def run(config):
    def launch(**changed) -> launches.Launch:
        return launches.Launch(config(**changed))

    return launch


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def test_that_one_more_image_is_one_more_caption(run, photos, output):
    assert run().result.snapshot.captioned == 5
    before = {row["file_name"]: row for row in read_rows(output)}
    write(photos, 0)
    launch = run()
    assert launch.outcome is ExitCode.COMPLETE
    assert (launch.begun.total, launch.begun.is_estimate) == (6, False)
    assert (launch.result.snapshot.kept, launch.result.snapshot.captioned) == (5, 1)
    after = {row["file_name"]: row for row in read_rows(output)}
    assert after.items() > before.items()
    assert after["0.png"]["re_caption"]
    assert not faults_of(output, photos)
    assert "Nothing to do" in run()["done"]


def test_that_changed_and_missing_images_are_named_and_stay(run, photos, output, caplog):
    run()
    (photos / "11.png").unlink()
    write(photos, 12)
    (photos / "12.png").write_bytes(b"other")
    assert "Nothing to do" in run()["done"]
    assert "1 image of" in caplog.text
    assert "has changed since it was captioned: 12.png. Give --redo-changed to caption it anew." in caplog.text
    assert "is gone: 11.png. Give --prune to remove its row." in caplog.text
    launch = run(prune=True)
    assert launch["pruned"] == "pruned   1 row of an image that is gone"
    assert "Nothing to do" in launch["done"]
    caplog.clear()
    assert run(redo_changed=True).result.snapshot.failed == {"not_an_image": 1}
    assert caplog.text == ""
    assert not faults_of(output, photos)


def test_that_pruning_opens_no_engine(run, photos, output):
    run()
    (photos / "11.png").unlink()
    launch = run(prune=True)
    assert "engine" not in launch.names
    assert len(read_rows(output)) == 4


class TestOverwrite:
    def test_that_the_same_command_goes_on_after_an_upgrade_only_by_accepting_it(self, run, output, monkeypatch):
        run(overwrite=True, limit=2)
        monkeypatch.setattr(config_module, "list_versions", lambda *_: "newer")
        with pytest.raises(ConfigError, match="--accept-changed versions"):
            run(overwrite=True)
        assert list((output / "partial").rglob("*.parquet"))
        launch = run(overwrite=True, accept_changed=("versions",))
        assert launch.result.snapshot.captioned == 3
        (accepted,) = json.loads((output / "run.json").read_text())["accepted"]
        assert (accepted["field"], accepted["to"]) == ("versions", "newer")

    def test_that_other_settings_or_inputs_replace_it(self, run, photos, output):
        run(overwrite=True)
        assert run(overwrite=True, prompt="What is it?").result.snapshot.captioned == 5
        write(photos.parent / "more", 1)
        shards = (str(photos), str(photos.parent / "more"))
        assert run(overwrite=True, prompt="What is it?", shards=shards).result.snapshot.captioned == 6
        assert run(overwrite=True, prompt="What is it?", shards=shards).result.snapshot.captioned == 0

    def test_which_commands_are_the_same(self, config):
        marks = {"versions": "1", "decoder": "pillow", "prompt": "?"}

        def name(changed=marks, **given):
            return command_name(config(**given), changed)

        assert name() == name({**marks, "versions": "2"}) == name({**marks, "decoder": "dali"})
        assert name() == name(limit=3, prune=True, redo_changed=True)
        assert len({name(), name({**marks, "prompt": "!"}), name(decoder="auto"), name(shards=("x",))}) == 4

    def test_that_dry_runs_say_what_would_be_done(self, config, output):
        def reasons(**changed):
            made = plan(config(**changed))
            made.close()
            return [pending.reason for pending in made.pending()]

        assert reasons() == reasons(overwrite=True) == ["new"]
        launches.Launch(config())
        assert reasons() == []
        assert reasons(overwrite=True) == ["new"]
        launches.Launch(config(overwrite=True))
        assert reasons() == reasons(overwrite=True) == []
        assert reasons(overwrite=True, prompt="What is it?") == ["new"]
        (output / "run.json").write_text("{")
        assert reasons(overwrite=True) == ["new"]
        with pytest.raises(ConfigError, match="cannot be read"):
            reasons()


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "given", "sentence"),
        [
            (
                "accept_changed",
                "decodr",
                "--accept-changed decodr: give one of decoder, versions. Did you mean decoder",
            ),
            ("accept_changed", "versions,prompt", "--accept-changed prompt: give one of decoder, versions"),
            ("retry_failed", "corupt", r"--retry-failed corupt: give one of all, .* Did you mean corrupt\?"),
            ("retry_failed", "ok", "--retry-failed ok: give one of all"),
            ("relocate", ["/a"], "--relocate /a: give the old folder, '=' and the new one"),
            ("relocate", ["=/a"], "--relocate =/a: give"),
        ],
    )
    def test_that_what_is_not_known_is_refused(self, tmp_path, option, given, sentence):
        with pytest.raises(ConfigError, match=sentence):
            RunConfig.of({"engine": tmp_path, "shards": ("x",), "output": tmp_path / "out", option: given})

    @pytest.mark.parametrize("given", ["truncated, corrupt", ["truncated", "corrupt"], "truncated,,corrupt,"])
    def test_that_lists_may_be_words_with_commas(self, tmp_path, given):
        made = RunConfig.of({"engine": tmp_path, "shards": ("x",), "output": tmp_path / "out", "retry_failed": given})
        assert made.retry_failed == ("truncated", "corrupt")

    def test_that_relocations_are_recorded_without_secrets(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        assert relocation("a=b/c/") == (f"{tmp_path}/a", f"{tmp_path}/b/c")
        assert relocation("s3://k:s@b/x/=https://u:p@h/y?sig=1") == ("s3://b/x", "https://h/y")
