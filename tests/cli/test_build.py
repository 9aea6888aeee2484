"""What build-engine says of the machine that it runs on."""

import re

import torch
from click.testing import CliRunner

from inputs import checkpoints
from recap_fast.bench import roofline
from recap_fast.bench.roofline import Rates
from recap_fast.build.recipe import shipped_recipes
from recap_fast.cli.main import cli
from recap_fast.errors import ConfigError
from recap_fast.launch.progress_line import duration


def test_a_large_engine_is_told_its_speed_on_a_cpu(tmp_path, monkeypatch):
    checkpoints.make_checkpoint(tmp_path / "checkpoint")
    rates = Rates(precisions=("float32", "float32"), linear=1e6, other=1e6, copy=1e9)
    monkeypatch.setattr(roofline, "measure_rates", lambda *_: rates)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    build = ["build-engine", "llava", "--checkpoint", tmp_path / "checkpoint", "--output", tmp_path / "engine"]
    assert "Speed" not in CliRunner().invoke(cli, [*map(str, build)]).stdout
    monkeypatch.setattr("recap_fast.bench.speed.LARGE_BYTES", 1)
    lines = CliRunner().invoke(cli, [*map(str, build), "--overwrite"]).stdout.splitlines()
    said = r"Speed on this CPU: at best (\d+\.\d) s an image \(.*\), (.*) for 300 images\."
    speed, time = re.fullmatch(said, lines[-2]).groups()
    assert time == duration(300 * float(speed))


def test_the_help_lists_all_recipes_that_ship():
    lines = CliRunner().invoke(cli, ["build-engine", "--help"]).stdout.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in shipped_recipes()]
    assert listed == list(shipped_recipes())


def test_a_page_of_the_hub_arrives_as_it_was_given(tmp_path, monkeypatch):
    given = {}

    def build(recipe, checkpoint, output, **choices):
        given.update(checkpoint=checkpoint, **choices)
        raise ConfigError("that is enough")

    monkeypatch.setattr("recap_fast.build.engine_directory.build_engine", build)
    page = "https://huggingface.co/org/name/tree/refs%2Fpr%2F6"
    arguments = ["build-engine", "llava", "--checkpoint", page, "--tokenizer", "org/words", "--output", tmp_path / "e"]
    assert CliRunner().invoke(cli, [*map(str, arguments)]).exit_code != 0
    assert (given["checkpoint"], given["tokenizer"]) == (page, "org/words")
